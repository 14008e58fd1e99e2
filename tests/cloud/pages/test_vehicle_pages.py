def test_smoke(fleet, visit):
    carol = visit("carol")
    print(carol.see("/vehicles")[:100])
    print(carol.see(f"/vehicles/{fleet.vin(1)}/real-time")[:100])
    fleet.upload()
    task = fleet.create(1, 2)
    print(carol.see("/ota/tasks")[:100])
    print(carol.see(f"/ota/tasks/{task.id}")[:100])
    with carol.live(f"/live/vehicles/{fleet.vin(1)}") as live:
        print(str(live.receive_json())[:300])
