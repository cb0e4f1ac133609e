// Makes and changes elements. Whatever a registry says becomes text, never markup.

/**
 * An element. `attributes` are attributes, but for `on`, which are listeners by event; absent ones (null, false) are
 * left out. Children are elements or text.
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An element of SVG, with attributes and children. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Changes the text of an element, if it is another one. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes the children of `parent` those of `items`, in their order. A child stays the same element as long as its key
 * does, so that focus and selection stay, too. `make` makes one, `update` tells it how its item is.
 */
export function keyed(parent, items, key, make, update) {
  const known = (parent.children_by_key ??= new Map());
  const wanted = new Set(items.map(key));
  for (const [name, child] of known) {
    if (!wanted.has(name)) {
      child.remove();
      known.delete(name);
    }
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = known.get(name);
    if (!child) {
      child = make(item);
      known.set(name, child);
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
}

/** Makes what `make` says the children of `parent`, unless `facts` are those it was made of before. */
export function renew(parent, facts, make) {
  const signature = JSON.stringify(facts);
  if (parent.made_of === signature) return;
  parent.made_of = signature;
  parent.replaceChildren(...[make(facts)].flat().filter((child) => child !== null && child !== undefined));
}
