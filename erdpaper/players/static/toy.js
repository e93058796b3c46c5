// The toy in closed form: equal Gaussians of one std, E[y | x_t] of every target, three schedules.
window.erdToy = (() => {
  "use strict";

  const sigmoid = (z) => 1 / (1 + Math.exp(-z));
  const targets = {
    x0: () => [1, 0],
    eps: () => [0, 1],
    v: (alpha, sigma) => [-sigma, alpha],
    u: () => [-1, 1],
  };
  const onSphere = (level) => [Math.sqrt(sigmoid(level)), Math.sqrt(sigmoid(-level))];

  // name -> log-SNR to [alpha, sigma], and to t
  const schedules = ([low, high]) => ({
    linear: { at: (l) => [sigmoid(l / 2), sigmoid(-l / 2)], time: (l) => sigmoid(-l / 2) },
    VP: {
      at: onSphere,
      time: (l) => {
        const integral = Math.log1p(Math.exp(-l));
        return (2 * integral) / (low + Math.sqrt(low ** 2 + 2 * (high - low) * integral));
      },
    },
    GVP: { at: onSphere, time: (l) => (2 / Math.PI) * Math.atan(Math.exp(-l / 2)) },
  });

  // density q(x), P(component | x), E[x_0 | x] and E[eps | x] at a point x of the plane
  const posterior = (law, x, alpha, sigma) => {
    const tau2 = (alpha * law.std) ** 2 + sigma ** 2;
    const gaps = law.means.map((m) => [x[0] - alpha * m[0], x[1] - alpha * m[1]]);
    const exponents = gaps.map((e) => -(e[0] ** 2 + e[1] ** 2) / (2 * tau2));
    const most = Math.max(...exponents);
    const parts = exponents.map((e) => Math.exp(e - most));
    const total = parts.reduce((a, b) => a + b);
    const shares = parts.map((p) => p / total);
    const mean = (of) => [0, 1].map((d) => shares.reduce((a, p, k) => a + p * of(k, d), 0));
    const gain = (alpha * law.std ** 2) / tau2;
    return {
      density: (Math.exp(most) * total) / (law.means.length * 2 * Math.PI * tau2),
      shares,
      x0: mean((k, d) => law.means[k][d] + gain * gaps[k][d]),
      eps: mean((k, d) => (sigma * gaps[k][d]) / tau2),
    };
  };

  const field = (law, x, alpha, sigma, target) => {
    const [ofData, ofNoise] = targets[target](alpha, sigma);
    const { density, x0, eps } = posterior(law, x, alpha, sigma);
    return { density, y: [0, 1].map((d) => ofData * x0[d] + ofNoise * eps[d]) };
  };

  // E||y||^2, and of it E||E[y | x_t]||^2 by the trapezoidal rule on the plane
  const energies = (law, alpha, sigma, target, steps = 72) => {
    const [ofData, ofNoise] = targets[target](alpha, sigma);
    const squares = law.means.map((m) => m[0] ** 2 + m[1] ** 2);
    const second = squares.reduce((a, b) => a + b) / squares.length + 2 * law.std ** 2;
    const furthest = Math.max(...law.means.flat().map(Math.abs));
    const reach = alpha * furthest + 7 * Math.hypot(alpha * law.std, sigma);
    const step = (2 * reach) / steps;
    let recoverable = 0;
    for (let i = 1; i < steps; i++) {
      for (let j = 1; j < steps; j++) {
        const x = [i * step - reach, j * step - reach];
        const { density, y } = field(law, x, alpha, sigma, target);
        recoverable += density * (y[0] ** 2 + y[1] ** 2) * step ** 2;
      }
    }
    return { energy: ofData ** 2 * second + 2 * ofNoise ** 2, recoverable };
  };

  return { targets, schedules, posterior, field, energies };
})();
