// The map of the overview: the vehicles of the list's own filters as marks on a canvas, or as clusters where there are too many.
// cloud/bmsota_cloud/pages/overview.py says what comes. The base map is outlines of our own, or the operator's tiles.
import "./vendor/leaflet/leaflet.js";
import "./vendor/topojson-client/topojson-client.min.js";

const L = window.L;
const NEAR_PX = 9; // Marks so close to each other are told apart by the pop-up.
const LISTED_MAX = 20;
const RADIUS_PX = 6;
const FRESH_MS = 5_000;
const ZOOM_MAX = 18;
const POINT = ["vin", "hwid", "latitude", "longitude", "isValid", "isOnline", "isUpgrading", "alarm", "soc"];
const CLUSTER = ["latitude", "longitude", "vehicles", "online", "faults", "upgrading", "points"];

const named = (names, values) => Object.fromEntries(names.map((name, place) => [name, values[place]]));

export function startMap(section) {
  section.hidden = false;
  const status = section.querySelector("[data-map-status]");
  const grouped = section.querySelector("[data-map-grouped]");
  const map = L.map(section.querySelector(".map-canvas"), {
    preferCanvas: true,
    minZoom: 1,
    maxZoom: ZOOM_MAX,
    zoomSnap: 0.5,
    maxBounds: [[-85, -200], [85, 200]],
    attributionControl: false,
    zoomAnimation: false,
    fadeAnimation: false,
    markerZoomAnimation: false,
  });
  map.setView([25, 60], 2);
  const attribution = L.control.attribution({ prefix: false }).addTo(map);
  const base = L.layerGroup().addTo(map);
  const marks = L.layerGroup().addTo(map);
  const renderer = L.canvas({ padding: 0.3, tolerance: 4 });
  let points = [];
  let clustered = false;
  let asking = null;
  let askedAt = 0;

  // -- base map
  async function showOutlines() {
    if (!map.getPane("outlines")) map.createPane("outlines").style.zIndex = 250;
    const response = await fetch(section.dataset.outlines);
    const world = await response.json();
    const shapes = window.topojson.feature(world, world.objects.countries);
    const style = {
      pane: "outlines",
      renderer: L.canvas({ pane: "outlines", padding: 0.5 }),
      interactive: false,
      weight: 0.8,
      color: colour("--map-border"),
      fillColor: colour("--map-land"),
      fillOpacity: 1,
    };
    base.clearLayers();
    for (const { geometry } of shapes.features) {
      const polygons = geometry?.type === "Polygon" ? [geometry.coordinates] : (geometry?.coordinates ?? []);
      for (const rings of polygons) for (const flat of flattened(rings)) base.addLayer(L.polygon(flat, style));
    }
    attribution.removeAttribution("Natural Earth").addAttribution("Natural Earth");
  }

  function showTiles(url) {
    const layer = L.tileLayer(url, { maxZoom: ZOOM_MAX });
    const text = document.createElement("span");
    text.textContent = section.dataset.attribution;
    attribution.addAttribution(text.innerHTML);
    layer.once("tileerror", () => {
      layer.remove();
      showOutlines();
    });
    base.addLayer(layer);
  }

  // The outlines are of a ball: a ring that crosses the date line is drawn on, and again on the other side; one around a pole
  // is closed along the edge of the map.
  function flattened(rings) {
    const outer = [];
    let turn = 0;
    let before = rings[0][0][0];
    for (const [longitude, latitude] of rings[0]) {
      if (longitude + turn - before > 180) turn -= 360;
      else if (longitude + turn - before < -180) turn += 360;
      before = longitude + turn;
      outer.push([latitude, before]);
    }
    const [first, last] = [outer[0], outer.at(-1)];
    if (Math.abs(last[1] - first[1]) > 180) outer.push([Math.sign(last[0]) * 90, last[1]], [Math.sign(first[0]) * 90, first[1]]);
    const holes = rings.slice(1).map((ring) => ring.map(([longitude, latitude]) => [latitude, longitude]));
    const found = [[outer, ...holes]];
    for (const shift of [-360, 360]) {
      if (outer.some(([, longitude]) => (shift < 0 ? longitude > 180 : longitude < -180))) found.push([outer.map(([latitude, longitude]) => [latitude, longitude + shift])]);
    }
    return found;
  }

  const colour = (name) => getComputedStyle(section).getPropertyValue(name).trim();

  // -- vehicles
  async function load({ fit }) {
    asking?.abort();
    const mine = new AbortController();
    asking = mine;
    askedAt = Date.now();
    const query = new URLSearchParams(location.search);
    for (const name of ["page", "sort"]) query.delete(name);
    const bounds = map.getBounds();
    const clamp = (degrees) => Math.max(-90, Math.min(90, degrees)).toFixed(4);
    query.set("bounds", fit && !clustered ? "" : [clamp(bounds.getSouth()), bounds.getWest().toFixed(4), clamp(bounds.getNorth()), bounds.getEast().toFixed(4)].join(","));
    query.set("zoom", String(Math.round(map.getZoom())));
    if (grouped.checked) query.set("grouped", "yes");
    let found;
    try {
      const response = await fetch(`${section.dataset.map}?${query}`, { signal: mine.signal, redirect: "error" });
      if (!response.ok) throw new Error(`status ${response.status}`);
      found = await response.json();
    } catch (error) {
      if (error.name !== "AbortError") status.textContent = "The map could not be renewed. It shows what was known before.";
      return;
    }
    show(found, fit);
  }

  function show(found, fit) {
    marks.clearLayers();
    clustered = found.points === null;
    points = (found.points ?? []).map((values) => named(POINT, values));
    if (clustered) for (const values of found.clusters) marks.addLayer(clusterMark(named(CLUSTER, values)));
    else for (const point of points.toSorted((one, other) => rank(one) - rank(other))) marks.addLayer(pointMark(point));
    const without = found.total - found.placed;
    status.textContent =
      `${found.placed} of ${found.total} vehicle${found.total === 1 ? "" : "s"} on the map` +
      (without ? `; ${without} ${without === 1 ? "has" : "have"} sent no position` : "");
    section.dataset.marks = String(marks.getLayers().length);
    section.dataset.clustered = clustered ? "yes" : "no";
    if (fit) fitTo(clustered ? found.clusters.map((values) => [values[0], values[1]]) : points.map((point) => [point.latitude, point.longitude]));
  }

  function fitTo(places) {
    if (places.length) map.fitBounds(L.latLngBounds(places), { maxZoom: 12, padding: [30, 30], animate: false });
  }

  // What must be seen is drawn last.
  const rank = (point) => (point.alarm > 0 ? 3 : point.isUpgrading ? 2 : point.isOnline ? 1 : 0);
  const kindOf = (point) => ["offline", "online", "upgrading", "faults"][rank(point)];

  function pointMark(point) {
    const kind = kindOf(point);
    const fill = colours[kind];
    const mark = L.circleMarker([point.latitude, point.longitude], {
      renderer,
      radius: kind === "faults" ? RADIUS_PX + 2 : RADIUS_PX,
      weight: 1.5,
      color: point.isValid ? colours.edge : fill,
      fillColor: fill,
      fillOpacity: point.isValid ? 0.95 : 0.25,
    });
    mark.on("click", () => open(mark.getLatLng(), near(point)));
    return mark;
  }

  function near(point) {
    const at = map.latLngToContainerPoint([point.latitude, point.longitude]);
    const isNear = (other) => at.distanceTo(map.latLngToContainerPoint([other.latitude, other.longitude])) <= NEAR_PX;
    return points.filter((other) => other === point || isNear(other)).sort((one, other) => (other === point) - (one === point));
  }

  function clusterMark(cluster) {
    const kind = cluster.faults ? "faults" : cluster.upgrading ? "upgrading" : cluster.online ? "online" : "offline";
    const sizePx = Math.round(26 + 7 * Math.log10(cluster.vehicles));
    const text = document.createElement("span");
    text.textContent = cluster.vehicles.toLocaleString("en");
    const words = `${cluster.vehicles} vehicles: ${cluster.online} online, ${cluster.faults} with faults, ${cluster.upgrading} upgrading`;
    const mark = L.marker([cluster.latitude, cluster.longitude], {
      icon: L.divIcon({ className: `cluster cluster-${kind}`, html: text, iconSize: [sizePx, sizePx] }),
      title: words,
    });
    mark.on("add", () => mark.getElement()?.setAttribute("aria-label", words));
    mark.on("click", () => {
      const listed = cluster.points.map((values) => named(POINT, values));
      const isOneSpot = listed.every((point) => Math.abs(point.latitude - listed[0].latitude) < 1e-4 && Math.abs(point.longitude - listed[0].longitude) < 1e-4);
      if (map.getZoom() >= ZOOM_MAX || isOneSpot || cluster.vehicles === 1) open(mark.getLatLng(), listed, cluster.vehicles);
      else map.setView(mark.getLatLng(), Math.min(map.getZoom() + 2, ZOOM_MAX), { animate: false });
    });
    return mark;
  }

  // -- pop-up
  function open(at, listed, count = listed.length) {
    const box = document.createElement("div");
    box.className = "map-popup";
    if (count > 1) box.append(element("p", `${count} vehicles here`, "sub"));
    const list = document.createElement("ul");
    for (const point of listed.slice(0, LISTED_MAX)) list.append(entry(point));
    box.append(list);
    if (count > LISTED_MAX) box.append(element("p", `and ${count - LISTED_MAX} more; zoom in or filter`, "sub"));
    L.popup({ maxHeight: 240, minWidth: 190, autoPan: true }).setLatLng(at).setContent(box).openOn(map);
  }

  function entry(point) {
    const item = document.createElement("li");
    const link = element("a", point.hwid || point.vin, "code");
    link.href = `/vehicles/${encodeURIComponent(point.vin)}/real-time`;
    const online = element("span", point.isOnline ? "Online" : "Offline", "online");
    online.dataset.online = point.isOnline ? "yes" : "no";
    const soc = point.soc === null ? "SOC unknown" : `SOC ${Math.round(point.soc)} %`;
    const more = [soc, point.alarm ? `alarm level ${point.alarm}` : "", point.isUpgrading ? "upgrading" : "", point.isValid ? "" : "last known position"];
    item.append(link, " ", online, element("span", more.filter(Boolean).join(", "), "sub"));
    return item;
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  }

  // -- what makes it move
  let colours = {};
  function paint() {
    colours = Object.fromEntries(["online", "offline", "upgrading", "faults", "edge"].map((name) => [name, colour(`--mark-${name}`)]));
  }
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    paint();
    if (!section.dataset.tiles) showOutlines();
    load({ fit: false });
  });
  document.addEventListener("list-shown", () => load({ fit: true }));
  document.addEventListener("live-parts", () => {
    if (Date.now() - askedAt > FRESH_MS) load({ fit: false });
  });
  grouped.addEventListener("change", () => load({ fit: false }));
  let moving = 0;
  map.on("moveend", () => {
    clearTimeout(moving);
    if (clustered) moving = setTimeout(() => load({ fit: false }), 150);
  });
  if (section.dataset.tiles) showTiles(section.dataset.tiles);
  else showOutlines().catch(() => {});
  load({ fit: true });
}
