// A list that changes while it is looked at, as long as it says so: its element has the address to ask.
const EVERY_MS = 2000;

export function startPolling() {
  if (document.querySelector("[data-poll]")) setTimeout(poll, EVERY_MS);
}

async function poll() {
  const list = document.querySelector("[data-poll]");
  if (!list) return;
  // Who is on a button of the list must not lose it.
  if (!document.hidden && !list.contains(document.activeElement)) {
    try {
      const response = await fetch(list.dataset.poll, { headers: { "X-Partial": "list" }, redirect: "error" });
      const template = document.createElement("template");
      template.innerHTML = await response.text();
      const fresh = template.content.getElementById(list.id);
      if (!response.ok || !fresh) throw new Error(`expected the list, got status ${response.status}`);
      list.replaceWith(fresh);
    } catch {
      // No connection, or logged out: the next time may be better, and a reload says why.
    }
  }
  setTimeout(poll, EVERY_MS);
}
