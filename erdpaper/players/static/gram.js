// Gram matrices of the tangent kernel at 13 times, trained, untrained and of the input alone.
window.erdPlayers.add("gram", (stage, data, alt) => {
  "use strict";

  const { TARGETS, controls, element, number, select, shape, slider } = window.erdPlayers;
  const COUNT = 4 * data.each;
  const STATES = ["trained", "untrained"];

  const target = select(TARGETS);
  target.value = "eps";
  const path = select({ linear: "linear", VP: "VP", GVP: "GVP" });
  const when = slider(0, data.times.length - 1, 1, 0);
  const readout = element("output", { "aria-live": "polite" });

  const picture = (title) => {
    const canvas = element("canvas", { width: COUNT, height: COUNT, role: "img" });
    canvas.setAttribute("aria-label", `Cosines between ${COUNT} points: ${title}. ${alt}`);
    const box = element("div", { class: "player-matrix" }, canvas, element("span", {}, title));
    return { box, brush: canvas.getContext("2d") };
  };
  const pictures = {
    trained: picture("trained kernel"),
    untrained: picture("untrained kernel"),
    input: picture("input x_t"),
  };

  // bytes above the diagonal, row by row, to grey levels of a symmetric matrix
  const drawMatrix = (brush, text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const image = brush.createImageData(COUNT, COUNT);
    image.data.fill(255);
    let k = 0;
    for (let i = 0; i < COUNT; i++) {
      for (let j = i + 1; j < COUNT; j++, k++) {
        for (const place of [i * COUNT + j, j * COUNT + i]) {
          image.data.fill(bytes[k], 4 * place, 4 * place + 3);
        }
      }
    }
    brush.putImageData(image, 0, 0);
  };

  // a curve for each state over the times, on a logarithmic axis, with a bar at the present time
  const chart = (title, key, low, high) => {
    const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [300, 150, 34, 22, 26];
    const x = (t) => LEFT + t * (WIDTH - LEFT - 8);
    const share = (v) => Math.log(v / low) / Math.log(high / low);
    const y = (v) => HEIGHT - BOTTOM - share(v) * (HEIGHT - TOP - BOTTOM);
    const text = (px, py, words, anchor = "middle") =>
      shape("text", { x: px, y: py, "text-anchor": anchor }, words);
    const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" };
    const root = shape("svg", { ...box, "aria-label": `${title} over time t. ${alt}` });
    root.append(text(LEFT, 14, title, "start"));
    for (let v = low; v <= high * 1.001; v *= 10) {
      root.append(shape("path", { d: `M${x(0)},${y(v)}H${x(1)}`, class: "player-grid" }));
      root.append(text(LEFT - 4, y(v) + 4, String(Number(v.toPrecision(1))), "end"));
    }
    for (const t of [0, 0.5, 1]) root.append(text(x(t), HEIGHT - 8, String(t)));
    root.append(text(x(0.75), HEIGHT - 8, "time t"));
    const bar = shape("path", { class: "player-now" });
    const curves = STATES.map((state) => shape("path", { class: `player-${state}` }));
    root.append(bar, ...curves);
    const draw = (cell, t) => {
      bar.setAttribute("d", `M${x(t)},${TOP}V${HEIGHT - BOTTOM}`);
      STATES.forEach((state, k) => {
        const points = cell[state][key].map((v, i) => `${x(data.times[i])},${y(v)}`);
        curves[k].setAttribute("d", `M${points.join("L")}`);
      });
    };
    return { root, draw };
  };
  const charts = [
    chart("top eigenvalue", "top", 1, 2000),
    chart("effective rank", "rank", 1, 20),
  ];

  const draw = () => {
    const k = Number(when.value);
    const cell = data.cells[`${target.value}, ${path.value}`];
    for (const state of STATES) drawMatrix(pictures[state].brush, cell[state].matrices[k]);
    drawMatrix(pictures.input.brush, data.inputs[path.value][k]);
    for (const one of charts) one.draw(cell, data.times[k]);
    const said = (key, digits) =>
      `${number(cell.trained[key][k], digits)} (untrained ${number(cell.untrained[key][k], digits)})`;
    when.setAttribute("aria-valuetext", `t = ${data.times[k]}`);
    readout.value =
      `${TARGETS[target.value]} on ${path.value}, t = ${data.times[k]}: ` +
      `top eigenvalue ${said("top", 2)}, effective rank ${said("rank", 1)}, ` +
      `mean cosine within clusters ${said("within", 2)}, between ${said("between", 2)}.`;
  };

  const named = { Target: target, Schedule: path, "Time t (noise at right)": when };
  const key = STATES.map((state) =>
    element("span", { class: `player-key player-key-${state}` }, state),
  );
  stage.append(
    controls(named, draw, { from: "min", stride: 1, wait: 600, live: readout }),
    element("div", { class: "player-matrices" }, ...Object.values(pictures).map((p) => p.box)),
    element("div", { class: "player-keys" }, ...key),
    element("div", { class: "player-panels" }, ...charts.map((one) => one.root)),
    readout,
  );
  draw();
});
