"use strict";
(() => {
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message; });
  const number = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(4);
  const make = (name, parent, className, text) => {
    const element = parent.appendChild(document.createElement(name));
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Arrow keys move within a group of which only one member is reached by the Tab key.
  const rove = (members, show) => {
    members.forEach((member, place) => {
      member.tabIndex = place ? -1 : 0;
      member.addEventListener("pointerenter", () => show(place));
      member.addEventListener("focus", () => {
        members.forEach((other) => { other.tabIndex = other === member ? 0 : -1; });
        show(place);
      });
      member.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const next = { Home: members[0], End: members[members.length - 1] }[event.key] || members[place + step];
        if (!next) return;
        event.preventDefault();
        next.focus();
      });
    });
  };

  const words = [...document.querySelectorAll(".word")];
  const readout = document.querySelector(".words .readout");
  rove(words, (place) => {
    const { share, part, pieces } = words[place].dataset;
    readout.textContent = "";
    make("b", readout, "", `“${words[place].textContent.trim()}” `);
    readout.append(`gave ${number(Number(share))}, ${part} of all that words gave. Pieces: ${pieces}`);
  });

  const data = document.getElementById("attention-data");
  if (data) attention(JSON.parse(data.textContent));
  root.dataset.ready = "yes";

  function attention(layers) {
    const place = document.querySelector(".attention");
    const controls = make("div", place, "controls");
    const choose = (name) => make("select", make("label", controls, "", name), "");
    const layerChoice = choose("Layer"), headChoice = choose("Head");
    layers.forEach((layer, at) => { make("option", layerChoice, "", layer.name).value = at; });
    const thumbnails = make("div", place, "heads");
    const told = make("output", place, "readout");
    const looks = make("div", place, "looks");
    const weights = layers.map((layer) => Uint8Array.from(atob(layer.weights), (letter) => letter.charCodeAt(0)));
    let layer, map, chosen, queries, keys, lines;

    // The weights of a head, or the mean of all, from 0 to 1, one row for each token that looks.
    const mapOf = (at, head) => {
      const { heads, queries, keys } = layers[at], size = queries.length * keys.length;
      const found = new Float32Array(size);
      for (let h = head < 0 ? 0 : head; h < (head < 0 ? heads : head + 1); h += 1) {
        for (let i = 0; i < size; i += 1) found[i] += weights[at][h * size + i] / 255 / (head < 0 ? heads : 1);
      }
      return found;
    };
    const paint = (canvas, found, rows, columns) => {
      canvas.width = columns;
      canvas.height = rows;
      const picture = canvas.getContext("2d"), pixels = picture.createImageData(columns, rows);
      found.forEach((weight, at) => {
        pixels.data.set([74, 136, 255, Math.round(255 * Math.sqrt(weight))], at * 4);
      });
      picture.putImageData(pixels, 0, 0);
    };

    const pickLayer = (at) => {
      layer = layers[at];
      headChoice.textContent = "";
      make("option", headChoice, "", "mean of all").value = -1;
      thumbnails.textContent = "";
      for (let head = 0; head < layer.heads; head += 1) {
        make("option", headChoice, "", String(head)).value = head;
        if (layer.heads > 64) continue;
        const button = make("button", thumbnails, "");
        button.type = "button";
        button.title = `head ${head}`;
        button.setAttribute("aria-label", `head ${head}`);
        paint(make("canvas", button, ""), mapOf(at, head), layer.queries.length, layer.keys.length);
        button.addEventListener("click", () => { headChoice.value = head; pickHead(); });
      }
      looks.textContent = "";
      const left = make("ul", looks, ""), picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      looks.append(picture);
      const right = make("ul", looks, "");
      queries = layer.queries.map((token) => make("li", left, "", token));
      keys = layer.keys.map((token) => make("li", right, "", token));
      picture.setAttribute("height", 24 * Math.max(queries.length, keys.length));
      lines = picture;
      chosen = Math.min(chosen ?? 1, queries.length - 1);
      rove(queries, (query) => { chosen = query; draw(); });
      pickHead();
    };
    const pickHead = () => {
      map = mapOf(Number(layerChoice.value), Number(headChoice.value));
      [...thumbnails.children].forEach((button, head) => {
        button.setAttribute("aria-pressed", String(head === Number(headChoice.value)));
      });
      draw();
    };
    const draw = () => {
      lines.textContent = "";
      const own = [];
      queries.forEach((query, row) => {
        query.classList.toggle("chosen", row === chosen);
        keys.forEach((key, column) => {
          const weight = map[row * keys.length + column];
          if (row === chosen) {
            key.style.setProperty("--weight", weight.toFixed(3));
            own.push([weight, column]);
          }
          if (weight < (row === chosen ? 0.01 : 0.12)) return;
          const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
          const at = { x1: "0", x2: "100%", y1: 24 * row + 12, y2: 24 * column + 12 };
          Object.entries(at).forEach(([name, value]) => line.setAttribute(name, value));
          line.setAttribute("stroke-width", row === chosen ? 1 + 3 * weight : 1);
          line.setAttribute("opacity", row === chosen ? 0.06 + 0.9 * Math.sqrt(weight) : 0.14 * weight);
          lines.append(line);
        });
      });
      own.sort((one, other) => other[0] - one[0]);
      told.textContent = "";
      make("b", told, "", `“${layer.queries[chosen]}” `);
      const best = own.slice(0, 3).map(([weight, key]) => `“${layer.keys[key]}” ${(100 * weight).toFixed(0)} %`);
      told.append(`looks at ${best.join(", ")}`);
      place.dataset.shown = `${layer.name}/${headChoice.value}/${chosen}`;
    };
    layerChoice.addEventListener("change", () => pickLayer(Number(layerChoice.value)));
    headChoice.addEventListener("change", pickHead);
    layerChoice.value = layers.length - 1;
    pickLayer(layers.length - 1);
  }
})();
