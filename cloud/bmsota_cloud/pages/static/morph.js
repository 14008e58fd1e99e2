// Bring an element of the page into the shape of another one, touching only what differs, so that selected text, focus,
// typed words and opened details stay as they are.

// What belongs to the person, not to the server.
const KEPT = { DETAILS: ["open"], INPUT: ["value"] };

export function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.id !== fresh.id) {
    old.replaceWith(fresh);
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else if (!old.isEqualNode(fresh)) {
    morphAttributes(old, fresh);
    morphChildren(old, fresh);
  }
}

function morphAttributes(old, fresh) {
  const kept = KEPT[old.nodeName] ?? [];
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !kept.includes(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!kept.includes(name)) setAttribute(old, name, value);
  }
}

function morphChildren(old, fresh) {
  const wanted = [...fresh.childNodes];
  const there = [...old.childNodes];
  wanted.forEach((child, place) => (place < there.length ? morph(there[place], child) : old.append(child)));
  there.slice(wanted.length).forEach((child) => child.remove());
}

// An empty value takes the attribute away. Progress moves by its property: a style would need an exception in the CSP.
export function setAttribute(element, name, value) {
  if (value === "") element.removeAttribute(name);
  else if (element instanceof HTMLProgressElement && name === "value") element.value = Number(value);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}
