"use strict";
(() => {
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message; });
  const make = (parent, className) => {
    const element = parent.appendChild(document.createElement("div"));
    element.className = className;
    element.hidden = true;
    element.setAttribute("aria-hidden", "true");
    return element;
  };
  const number = (value) => {
    const size = Math.abs(value);
    const text = size >= 1e4 && size < 1e9 ? Math.round(size).toLocaleString("en") : String(Number(size.toPrecision(4)));
    return (value < 0 ? "−" : "") + text.replace("e-", "e−").replace("e+", "e");
  };
  // The place of the number nearest to `wanted` in a list that rises.
  const nearest = (list, wanted) => {
    let low = 0, high = list.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (list[middle] < wanted) low = middle; else high = middle;
    }
    return Math.abs(list[high] - wanted) < Math.abs(list[low] - wanted) ? high : low;
  };

  const logarithmic = document.getElementById("log");
  const plots = [...document.querySelectorAll(".plot")].map((element) => {
    const { across, down, curves } = JSON.parse(element.querySelector("script").textContent);
    const readout = element.parentElement.querySelector(".readout");
    const cursor = make(element, "cursor");
    const spots = curves.map((curve, place) => make(element, `spot c${place % 6}`));
    const steps = [...new Set(curves.flatMap((curve) => curve.steps))].sort((one, other) => one - other);
    const left = (step) => `${(100 * (step - across[0])) / (across[1] - across[0])}%`;
    const bottom = (value) => {
      const log = logarithmic && logarithmic.checked && down.log;
      const [low, high] = (log || down.linear).map((end) => (log ? Math.log(end) : end));
      return `${(100 * ((log ? Math.log(value) : value) - low)) / (high - low)}%`;
    };
    const show = (step) => {
      const told = [];
      curves.forEach(({ name, steps: own, values }, place) => {
        if (!own.length) return;
        const at = nearest(own, step);
        told.push(`${curves.length > 1 ? `${name} ` : ""}${number(values[at])}${own[at] === step ? "" : ` (step ${own[at].toLocaleString("en")})`}`);
        spots[place].hidden = false;
        spots[place].style.left = left(own[at]);
        spots[place].style.bottom = bottom(values[at]);
      });
      cursor.hidden = false;
      cursor.style.left = left(step);
      readout.textContent = `Step ${step.toLocaleString("en")}: ${told.join(", ")}`;
      readout.classList.add("live");
      element.setAttribute("aria-valuenow", step);
      element.setAttribute("aria-valuetext", readout.textContent);
    };
    const hide = () => {
      [cursor, ...spots].forEach((part) => { part.hidden = true; });
      readout.textContent = readout.dataset.resting;
      readout.classList.remove("live");
    };
    return { element, steps, across, show, hide };
  });

  // All pictures show the same step, each that which it has nearest to it.
  let chosen = null;
  const choose = (step) => {
    chosen = step;
    plots.forEach((plot) => { if (step === null) plot.hide(); else plot.show(plot.steps[nearest(plot.steps, step)]); });
  };
  plots.forEach(({ element, steps, across }) => {
    element.tabIndex = 0;
    element.setAttribute("role", "slider");
    element.setAttribute("aria-valuemin", steps[0]);
    element.setAttribute("aria-valuemax", steps[steps.length - 1]);
    element.setAttribute("aria-valuenow", steps[steps.length - 1]);
    element.setAttribute("aria-valuetext", element.parentElement.querySelector(".readout").textContent);
    const point = (event) => {
      const box = element.getBoundingClientRect();
      choose(across[0] + ((event.clientX - box.left) / box.width) * (across[1] - across[0]));
    };
    element.addEventListener("pointermove", point);
    element.addEventListener("pointerdown", point);
    element.addEventListener("pointerleave", () => { if (document.activeElement !== element) choose(null); });
    element.addEventListener("blur", () => choose(null));
    element.addEventListener("keydown", (event) => {
      const last = steps.length - 1;
      const place = chosen === null ? last : nearest(steps, chosen);
      const far = Math.max(1, Math.round(last / 10));
      const move = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: far, PageDown: -far, Home: -last, End: last };
      if (event.key === "Escape") choose(null);
      if (!(event.key in move)) return;
      event.preventDefault();
      const next = chosen === null ? (event.key === "Home" ? 0 : last) : place + move[event.key];
      choose(steps[Math.min(Math.max(next, 0), last)]);
    });
  });

  // A page that is loaded anew while the run goes on keeps its switches.
  document.querySelectorAll(".switch").forEach((box) => {
    const name = `pellucid ${box.id}`;
    try {
      const kept = sessionStorage.getItem(name);
      if (kept !== null) box.checked = kept === "yes";
    } catch { /* storage is closed to pages from files in some browsers */ }
    box.addEventListener("change", () => {
      try { sessionStorage.setItem(name, box.checked ? "yes" : "no"); } catch { /* as above */ }
      if (chosen !== null) choose(chosen);
    });
  });
  root.dataset.ready = "yes";
})();
