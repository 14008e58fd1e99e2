// Keeps "3 s ago" up to date, by the server's clock: the browser's may be wrong. Same words as cloud/bmsota_cloud/pages/times.py.
let aheadMs = 0;

export function setServerTime(text) {
  const serverMs = Date.parse(text);
  if (!Number.isNaN(serverMs)) aheadMs = serverMs - Date.now();
}

function ago(sinceMs) {
  const seconds = Math.max(0, Math.floor((Date.now() + aheadMs - sinceMs) / 1000));
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  }
  return `${seconds} s ago`;
}

export function refreshTimes() {
  for (const element of document.querySelectorAll("[data-since]")) {
    const text = ago(Date.parse(element.dataset.since));
    if (element.textContent !== text) element.textContent = text;
  }
}

export function startTimes() {
  refreshTimes();
  setInterval(refreshTimes, 1000);
}
