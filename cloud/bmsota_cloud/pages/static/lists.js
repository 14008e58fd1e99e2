// Lists that follow their filters without loading the whole page. The address always says what is shown, so links,
// reload and the back button work; without this file the form and the links do the same by themselves.
const TYPING_MS = 250;

export function startLists() {
  for (const form of document.querySelectorAll("form[data-list]")) startList(form, form.dataset.list);
}

function startList(form, id) {
  let typing = 0;
  let asking = null;

  function address() {
    const pairs = [...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value);
    const query = new URLSearchParams(pairs).toString();
    return form.getAttribute("action") + (query ? `?${query}` : "");
  }

  async function show(url, remember) {
    clearTimeout(typing);
    asking?.abort();
    const mine = new AbortController();
    asking = mine;
    const list = document.getElementById(id);
    list.setAttribute("aria-busy", "true");
    try {
      const response = await fetch(url, { headers: { "X-Partial": "list" }, signal: mine.signal, redirect: "error" });
      const template = document.createElement("template");
      template.innerHTML = await response.text();
      const fresh = template.content.getElementById(id);
      if (!response.ok || !fresh) throw new Error(`expected the list, got status ${response.status}`);
      for (const part of template.content.querySelectorAll("[data-part]")) {
        if (part !== fresh) document.getElementById(part.id)?.replaceWith(part);
      }
      list.replaceWith(fresh);
      if (remember) history.pushState(null, "", url);
      document.dispatchEvent(new Event("list-shown"));
    } catch (error) {
      // Not logged in any more, refused, or no connection: let the browser show what there is to show.
      if (error.name !== "AbortError") location.assign(url);
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(address(), true);
  });
  form.addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => show(address(), true), event.target.tagName === "SELECT" ? 0 : TYPING_MS);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest(`#${id} .pager a, #${id} .empty a, a[data-list-link="${id}"]`);
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button !== 0) return;
    event.preventDefault();
    fill(new URL(link.href).searchParams);
    show(link.getAttribute("href"), true).then(() => link.dataset.listLink || document.getElementById(id).scrollIntoView({ block: "nearest" }));
  });
  addEventListener("popstate", () => {
    fill(new URLSearchParams(location.search));
    show(location.pathname + location.search, false);
  });

  function fill(parameters) {
    for (const field of form.elements) {
      if (field.name) field.value = parameters.get(field.name) ?? "";
    }
  }
}
