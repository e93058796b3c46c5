// Reverse trajectories of the toy: x_t, the endpoint estimate, and the mode they end in.
window.erdPlayers.add("trajectories", (stage, data, alt) => {
  "use strict";

  const { controls, element, number, percent, plane, select, shape, slider } =
    window.erdPlayers;
  const { posterior } = window.erdToy;
  const LEVELS = data.logsnr.length;
  const SAMPLERS = Object.keys(data.walks);
  const STARTS = data.walks[SAMPLERS[0]].ends.length;
  const SURE = 0.9;

  const side = ([x, y]) => `${y > 0 ? "upper" : "lower"} ${x > 0 ? "right" : "left"}`;
  const modes = data.law.means.map(side);
  const sharesAt = (sampler, k, i) =>
    posterior(data.law, data.walks[sampler].x[k][i], data.alpha[k], data.sigma[k]).shares;
  const modeOf = (sampler, i) => modes.indexOf(side(data.walks[sampler].ends[i]));

  // the first level from which on the mode of the end is sure
  const decided = (sampler, i) => {
    let k = LEVELS;
    while (k > 0 && sharesAt(sampler, k - 1, i)[modeOf(sampler, i)] > SURE) k--;
    return k;
  };
  const decisions = Object.fromEntries(
    SAMPLERS.map((s) => [s, [...Array(STARTS).keys()].map((i) => decided(s, i))]),
  );
  const same = [...Array(STARTS).keys()].filter(
    (i) => new Set(SAMPLERS.map((s) => modeOf(s, i))).size === 1,
  ).length;

  const sampler = select(Object.fromEntries(SAMPLERS.map((s) => [s, s])));
  const chosen = select(Object.fromEntries([...Array(STARTS).keys()].map((i) => [i, i + 1])));
  const when = slider(0, LEVELS - 1, 1, 0);
  const readout = element("output", { "aria-live": "polite" });

  const drawing = plane(3.2, alt);
  const dots = (count, name, r) =>
    [...Array(count)].map(() => shape("circle", { r, class: name }));
  const marks = {
    x: dots(STARTS, "player-state-other", 2.5),
    x0hat: dots(STARTS, "player-estimate-other", 3.5),
  };
  const trails = {
    x: shape("path", { class: "player-state-trail" }),
    x0hat: shape("path", { class: "player-estimate-trail" }),
  };
  const heads = { x: dots(1, "player-state", 6)[0], x0hat: dots(1, "player-estimate", 7)[0] };
  const crosses = data.law.means.map((m) => {
    const [x, y] = drawing.at(m);
    return shape("path", { d: `M${x - 6},${y}h12M${x},${y - 6}v12`, class: "player-mode" });
  });
  drawing.root.append(...crosses, ...marks.x, ...marks.x0hat, ...Object.values(trails));
  drawing.root.append(...Object.values(heads));

  const bars = modes.map((name) => {
    const meter = element("meter", { min: 0, max: 1, "aria-label": `P(${name} | x_t)` });
    const value = element("span");
    return { row: element("div", {}, element("span", {}, name), meter, value), meter, value };
  });

  const move = (circle, point) => {
    const [x, y] = drawing.at(point);
    circle.setAttribute("cx", x);
    circle.setAttribute("cy", y);
  };

  const draw = () => {
    const [k, i, walk] = [Number(when.value), Number(chosen.value), data.walks[sampler.value]];
    for (const name of ["x", "x0hat"]) {
      marks[name].forEach((circle, j) => move(circle, walk[name][k][j]));
      move(heads[name], walk[name][k][i]);
      const past = walk[name].slice(0, k + 1).map((points) => drawing.at(points[i]));
      trails[name].setAttribute("d", `M${past.join("L")}`);
    }
    const shares = sharesAt(sampler.value, k, i);
    bars.forEach(({ meter, value }, m) => {
      meter.value = shares[m];
      value.textContent = percent(shares[m]);
    });
    const own = decisions[sampler.value];
    const until = own[i] < LEVELS ? `at log-SNR ${number(data.logsnr[own[i]], 1)}` : "at the end";
    const settled = own.filter((first) => first <= k).length;
    when.setAttribute("aria-valuetext", `log-SNR ${number(data.logsnr[k], 1)}`);
    readout.value =
      `log-SNR ${number(data.logsnr[k], 1)}, start ${i + 1}, ${sampler.value}: ` +
      `x̂₀ is ${number(Math.hypot(...walk.x0hat[k][i]), 2)} from the middle. ` +
      `It ends ${modes[modeOf(sampler.value, i)]} and is sure of it ${until}. ` +
      `${settled} of ${STARTS} starts are sure by now; ` +
      `the two samplers take ${same} of ${STARTS} to the same mode.`;
  };

  const named = { Sampler: sampler, Start: chosen, "Noise level (log-SNR, noise at left)": when };
  stage.append(
    controls(named, draw, { from: "min", stride: 1, wait: 120, live: readout }),
    element(
      "div",
      { class: "player-panels" },
      drawing.box,
      element("div", { class: "player-bars" }, element("p", {}, "P(mode | x_t)"), ...bars.map((b) => b.row)),
    ),
    readout,
  );
  draw();
});
