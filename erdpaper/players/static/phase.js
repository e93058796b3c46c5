// The phase portrait: density of x_t as shade, E[y | x_t] as arrows, by log-SNR.
window.erdPlayers.add("phase", (stage, data, alt) => {
  "use strict";

  const { TARGETS, controls, element, number, percent, plane, select, shape, slider } =
    window.erdPlayers;
  const { energies, field, posterior, schedules } = window.erdToy;
  const paths = schedules(data.betas);
  const REACH = 3.6;
  const ARROWS = 15;
  const PIXELS = 72;
  // an arrow of E[y | x_t] is drawn at this scale, and never longer than LONGEST
  const SCALE = 0.15;
  const LONGEST = 0.45;

  const target = select(TARGETS);
  target.value = "eps";
  const path = select({ linear: "linear", VP: "VP", GVP: "GVP" });
  const level = slider(-8, 8, 0.1, 0);
  const readout = element("output", { "aria-live": "polite" });
  const drawing = plane(REACH, alt);
  const shade = element("canvas", { width: PIXELS, height: PIXELS, "aria-hidden": "true" });
  drawing.box.prepend(shade);
  const brush = shade.getContext("2d");
  const lines = [...Array(ARROWS ** 2)].map(() => shape("path", { class: "player-arrow" }));
  drawing.root.append(...lines);

  const cell = (k, count) => ((k + 0.5) / count) * 2 * REACH - REACH;

  const drawShade = (alpha, sigma) => {
    const picture = brush.createImageData(PIXELS, PIXELS);
    const values = [];
    for (let i = 0; i < PIXELS; i++) {
      for (let j = 0; j < PIXELS; j++) {
        const x = [cell(j, PIXELS), -cell(i, PIXELS)];
        values.push(posterior(data.law, x, alpha, sigma).density);
      }
    }
    const most = Math.max(...values);
    values.forEach((v, k) => picture.data.set([64, 132, 196, 190 * Math.sqrt(v / most)], 4 * k));
    brush.putImageData(picture, 0, 0);
    return most;
  };

  const drawArrow = (line, x, found, most) => {
    const size = Math.hypot(...found.y);
    const length = Math.min(SCALE * size, LONGEST);
    const [dx, dy] = found.y.map((c) => (size ? (c / size) * length : 0));
    const [a, b] = [drawing.at(x), drawing.at([x[0] + dx, x[1] + dy])];
    const head = 0.32;
    const [px, py] = [b[0] - a[0], b[1] - a[1]];
    const barb = (s) => `${b[0] - head * (px - s * py)},${b[1] - head * (py + s * px)}`;
    line.setAttribute("d", `M${a}L${b}M${barb(0.7)}L${b}L${barb(-0.7)}`);
    // where x_t hardly ever is, what a network should answer hardly matters
    line.setAttribute("opacity", 0.15 + 0.85 * Math.sqrt(found.density / most));
  };

  const draw = () => {
    const at = Number(level.value);
    const [alpha, sigma] = paths[path.value].at(at);
    const most = drawShade(alpha, sigma);
    lines.forEach((line, k) => {
      const x = [cell(k % ARROWS, ARROWS), cell(Math.floor(k / ARROWS), ARROWS)];
      drawArrow(line, x, field(data.law, x, alpha, sigma, target.value), most);
    });
    const { energy, recoverable } = energies(data.law, alpha, sigma, target.value);
    const name = TARGETS[target.value];
    const time = paths[path.value].time(at);
    level.setAttribute("aria-valuetext", `log-SNR ${number(at, 1)}`);
    readout.value =
      `log-SNR ${number(at, 1)}: t = ${number(time, 3)} on ${path.value}, ` +
      `α = ${number(alpha, 3)}, σ = ${number(sigma, 3)}. ` +
      `Of ${name}, E‖${name}‖² = ${number(energy, 2)}, x_t gives away ` +
      `${number(recoverable, 2)} (${percent(recoverable / energy)}); ` +
      `the Bayes floor is ${number(Math.max(0, energy - recoverable), 2)}.`;
  };

  const named = { Target: target, Schedule: path, "Noise level (log-SNR, noise at left)": level };
  stage.append(
    controls(named, draw, { from: "max", stride: 0.2, wait: 80, live: readout }),
    element("div", { class: "player-panels" }, drawing.box),
    readout,
  );
  draw();
});
