// Small helpers to make elements. Text is only ever set as text: no HTML out of strings.

/** Return an element with properties and children. Names with a dash or in ATTRIBUTES are set as attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return the element with this id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Wait some seconds, or until one of the events named comes on window. */
export function pause(seconds, ...events) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      for (const event of events) removeEventListener(event, done);
      resolve();
    };
    const timer = setTimeout(done, 1000 * seconds);
    for (const event of events) addEventListener(event, done);
  });
}
