// Starts what the page asks for with its attributes: data-live (a WebSocket), data-list (a list that filters itself),
// data-upload (a form with files that shows how far it is).
import { startLists } from "./lists.js";
import { startLive } from "./live.js";
import { setServerTime, startTimes } from "./times.js";
import { startUploads } from "./uploads.js";

setServerTime(document.body.dataset.now);
startTimes();
startLists();
startUploads();
if (document.body.dataset.live) startLive(document.body.dataset.live);
