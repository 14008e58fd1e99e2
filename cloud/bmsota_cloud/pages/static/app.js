// Starts what the page asks for with its attributes: data-live (a WebSocket), data-list (a list that filters itself), data-poll
// (a list that changes by itself).
import { startLists } from "./lists.js";
import { startLive } from "./live.js";
import { startPolling } from "./polling.js";
import { setServerTime, startTimes } from "./times.js";

setServerTime(document.body.dataset.now);
startTimes();
startLists();
startPolling();
if (document.body.dataset.live) startLive(document.body.dataset.live);
