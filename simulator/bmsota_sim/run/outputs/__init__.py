"""What a run leaves behind: `run.json` and `junit.xml`. Pure: text comes out, the command writes it."""
