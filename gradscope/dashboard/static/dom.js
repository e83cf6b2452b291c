// Builds elements. Text only ever becomes a text node: no name from a log is read as markup.

const SVG = 'http://www.w3.org/2000/svg';

export function element(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node[name.toLowerCase()] = value;
    else if (name in node && !(node instanceof SVGElement) && !name.includes('-')) node[name] = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Gives a function that calls `update` only where one of the values it is given has changed since the last time.
export function whenChanged(update) {
  let last = null;
  return (...values) => {
    if (last && last.length === values.length && last.every((value, i) => Object.is(value, values[i]))) return;
    last = values;
    update(...values);
  };
}

// Replaces what `parent` holds; who was at one of its controls by keyboard is at the same one again.
export function renew(parent, ...children) {
  const controls = () => [...parent.querySelectorAll('button, input, select, summary, [tabindex]')];
  const before = controls();
  const at = before.indexOf(document.activeElement);
  const name = (control) => `${control.tagName} ${control.dataset.key ?? control.textContent}`;
  const wanted = at < 0 ? null : name(before[at]);
  const nth = before.slice(0, Math.max(at, 0)).filter((control) => name(control) === wanted).length;
  parent.replaceChildren(...children);
  if (wanted !== null) controls().filter((control) => name(control) === wanted)[nth]?.focus({preventScroll: true});
}

const tooltip = element('div', {className: 'tooltip', role: 'presentation', hidden: true});

export function showTooltip(x, y, lines) {
  if (!tooltip.isConnected) document.body.append(tooltip);
  tooltip.replaceChildren(...lines.map((line) => element('div', {}, line)));
  tooltip.hidden = false;
  const {width, height} = tooltip.getBoundingClientRect();
  const right = x + 14 + width > innerWidth;
  tooltip.style.left = `${Math.max(4, right ? x - width - 10 : x + 14)}px`;
  tooltip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - height - 4))}px`;
}

export function hideTooltip() {
  tooltip.hidden = true;
}
