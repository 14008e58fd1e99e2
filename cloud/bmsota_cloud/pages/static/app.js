// Starts what the page asks for with its attributes: data-live (a WebSocket), data-list (a list that filters itself).
import { startLists } from "./lists.js";
import { startLive } from "./live.js";
import { setServerTime, startTimes } from "./times.js";

setServerTime(document.body.dataset.now);
startTimes();
startLists();
if (document.body.dataset.live) startLive(document.body.dataset.live);
