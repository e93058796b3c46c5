// What the players share: controls with labels, a readout, play and pause, and drawing.
window.erdPlayers = (() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";
  const TARGETS = { x0: "x₀", eps: "ε", v: "v", u: "u" };
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const starters = {};

  const fill = (node, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const element = (name, attributes = {}, ...children) =>
    fill(document.createElement(name), attributes, children);
  const shape = (name, attributes = {}, ...children) =>
    fill(document.createElementNS(SVG, name), attributes, children);

  const labelled = (text, control) => {
    control.setAttribute("aria-label", text);
    return element("label", {}, element("span", {}, text), control);
  };
  const select = (options) => {
    const list = element("select");
    for (const [value, text] of Object.entries(options)) list.add(new Option(text, value));
    return list;
  };
  const slider = (min, max, step, value) => {
    const range = element("input", { type: "range", min, max, step });
    range.value = value;
    return range;
  };

  // A button that walks a slider to its end; with reduced motion each press is one step.
  const player = (range, { from, stride, wait, draw, live }) => {
    const start = Number(range[from]);
    const way = from === "min" ? 1 : -1;
    const end = Number(range[from === "min" ? "max" : "min"]);
    const button = element("button", { type: "button" });
    let timer = null;
    const name = () => {
      button.textContent = still.matches ? "Step" : timer ? "Pause" : "Play";
    };
    const pause = () => {
      clearInterval(timer);
      timer = null;
      live.setAttribute("aria-live", "polite");
      name();
    };
    const step = () => {
      const at = Number(range.value);
      range.value = at === end ? start : at + way * stride;
      draw();
      if (Number(range.value) === end) pause();
    };
    button.addEventListener("click", () => {
      if (still.matches) return step();
      if (timer) return pause();
      // a voice that reads every frame would never end
      live.setAttribute("aria-live", "off");
      timer = setInterval(step, wait);
      name();
    });
    range.addEventListener("input", () => timer && pause());
    still.addEventListener("change", pause);
    name();
    return button;
  };

  // The row of a player's controls: each redraws, and the last of them, a slider, can be played.
  const controls = (named, draw, pace) => {
    const all = Object.values(named);
    for (const control of all) control.addEventListener("input", draw);
    const play = player(all.at(-1), { ...pace, draw });
    const shown = Object.entries(named).map(([text, control]) => labelled(text, control));
    return element("div", { class: "player-controls" }, ...shown, play);
  };

  // A square drawing of the plane -reach..reach; `at` maps a point to its coordinates.
  const plane = (reach, alt, size = 300) => {
    const at = ([x, y]) => [(x / reach + 1) * (size / 2), (1 - y / reach) * (size / 2)];
    const root = shape("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": alt });
    const frame = { width: size - 1, height: size - 1, x: 0.5, y: 0.5, class: "player-frame" };
    root.append(shape("rect", frame));
    return { root, at, box: element("div", { class: "player-plane" }, root) };
  };

  const number = (value, digits) => value.toFixed(digits).replace("-", "−");
  const percent = (share) => `${Math.round(100 * share)} %`;

  const start = (figure) => {
    const name = figure.dataset.player;
    const data = JSON.parse(figure.querySelector("script").textContent);
    const stage = figure.querySelector(".player-stage");
    starters[name](stage, data, figure.dataset.alt);
    figure.classList.add("player-ready");
  };
  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("figure.player").forEach(start);
  });

  return {
    TARGETS,
    add: (name, starter) => (starters[name] = starter),
    controls,
    element,
    number,
    percent,
    plane,
    select,
    shape,
    slider,
  };
})();
