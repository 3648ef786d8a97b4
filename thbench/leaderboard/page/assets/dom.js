"use strict";
// Building elements. Text only ever becomes text: nothing here parses HTML.
const TH = (window.TH = {});

TH.FPS = 25;
TH.COLOURS = 12;
const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, run] of Object.entries(value)) node.addEventListener(event, run);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

TH.el = (tag, attributes, ...children) => filled(document.createElement(tag), attributes, children);
TH.svg = (tag, attributes, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);
TH.by = (id) => document.getElementById(id);

TH.options = (select, pairs, chosen) => {
  select.replaceChildren(...pairs.map(([value, text]) => TH.el("option", { value, text })));
  select.value = pairs.some(([value]) => value === chosen) ? chosen : (pairs[0] || [""])[0];
  return select;
};

TH.select = (label, pairs, chosen, change, id) => {
  const select = TH.options(TH.el("select", { id, on: { change: () => change(select.value) } }), pairs, chosen);
  return TH.el("label", {}, label + " ", select);
};

TH.button = (text, run, attributes) =>
  TH.el("button", { type: "button", on: { click: run }, ...attributes }, text);

TH.badge = (origin) => TH.el("span", { class: `badge o-${origin.split(" ")[0]}`, text: origin });

// A colour for each title, the same in all parts of the page.
const colours = new Map();
TH.colour = (row) => {
  if (row.strategy === "ground-truth") return "truth";
  if (!colours.has(row.title)) colours.set(row.title, colours.size % TH.COLOURS);
  return `c${colours.get(row.title)}`;
};

// About four digits; the page's tables have their texts from the data.
TH.number = (value) => {
  const size = Math.abs(value);
  if (size > 1 && Number.isInteger(value)) return String(value);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
};

TH.icon = (path) =>
  TH.svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true", class: "icon" }, TH.svg("path", { d: path }));
TH.ICONS = {
  play: "M7 4v16l13-8z",
  pause: "M6 4h4v16H6zM14 4h4v16h-4z",
  back: "M17 4v16L7 12zM4 4h3v16H4z",
  next: "M7 4v16l10-8zM17 4h3v16h-3z",
  sound: "M3 9v6h4l5 5V4L7 9zM15 8a5 5 0 0 1 0 8zM15 3.5v2a7 7 0 0 1 0 13v2a9 9 0 0 0 0-17z",
  mute: "M3 9v6h4l5 5V4L7 9z",
};
