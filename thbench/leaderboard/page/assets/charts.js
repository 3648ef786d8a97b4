"use strict";
// Axes, and the curves over time with the playing position in them.
{
  const { el, svg } = TH;
  const W = 360, H = 190, LEFT = 46, RIGHT = 14, TOP = 8, BOTTOM = 30;

  // Round numbers within a range, about n of them.
  function ticks(low, high, n) {
    const rough = (high - low) / n || 1, unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * unit).find((s) => s >= rough);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++)
      for (const k of [1, 2, 5]) if (k * 10 ** e >= low && k * 10 ** e <= high) found.push(k * 10 ** e);
    return found.length > 6 ? found.filter((v) => String(v).replace(/[0.]/g, "")[0] === "1") : found;
  }

  const short = (v) => (Math.abs(v) >= 1e6 ? `${+(v / 1e6).toPrecision(3)}M` : Math.abs(v) >= 1e4 ? `${+(v / 1e3).toPrecision(3)}k` : String(+v.toPrecision(4)));

  // A frame for a chart: the SVG, and where values lie in it.
  TH.axes = ({ x, y, xlabel, ylabel, label, log = false, logY = false, w = W, h = H }) => {
    const pad = y[0] === y[1] ? Math.abs(y[0]) * 0.1 || 1 : (y[1] - y[0]) * 0.07;
    const [low, high] = logY ? [y[0] / 1.3, y[1] * 1.3] : [y[0] - pad, y[1] + pad];
    const along = log ? Math.log10 : (v) => v, [a, b] = x.map(along);
    const up = logY ? Math.log10 : (v) => v, [c, d] = [up(low), up(high)];
    const atX = (v) => LEFT + ((along(v) - a) / (b - a || 1)) * (w - LEFT - RIGHT);
    const atY = (v) => h - BOTTOM - ((up(v) - c) / (d - c)) * (h - TOP - BOTTOM);
    const chart = svg("svg", { viewBox: `0 0 ${w} ${h}`, class: "chart", role: "img", "aria-label": label });
    for (const v of logY ? logTicks(low, high) : ticks(low, high, 4)) {
      chart.append(svg("line", { class: "grid", x1: LEFT, x2: w - RIGHT, y1: atY(v), y2: atY(v) }));
      chart.append(svg("text", { class: "tick", x: LEFT - 5, y: atY(v) + 3.5, "text-anchor": "end", text: short(v) }));
    }
    for (const v of log ? logTicks(x[0], x[1]) : ticks(x[0], x[1], 5))
      chart.append(svg("text", { class: "tick", x: atX(v), y: h - BOTTOM + 13, "text-anchor": "middle", text: short(v) }));
    chart.append(svg("text", { class: "label", x: (LEFT + w - RIGHT) / 2, y: h - 3, "text-anchor": "middle", text: xlabel }));
    if (ylabel) chart.append(svg("text", { class: "label", x: LEFT, y: TOP + 2, text: ylabel }));
    return { chart, atX, atY, w, h, left: LEFT, right: w - RIGHT, top: TOP, bottom: h - BOTTOM };
  };

  // Marks differ in shape too, for those who do not tell the colours apart.
  TH.mark = (x, y, colour, r = 4.5) => {
    const k = (Number(colour.slice(1)) || 0) % 4;
    const d = [
      `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0z`,
      `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
      `M${x} ${y - 1.3 * r}l${1.3 * r} ${1.3 * r}l${-1.3 * r} ${1.3 * r}l${-1.3 * r} ${-1.3 * r}z`,
      `M${x} ${y - 1.2 * r}l${1.2 * r} ${2.1 * r}h${-2.4 * r}z`,
    ][k];
    return svg("path", { class: `mark ${colour}`, d });
  };

  TH.swatch = (colour) => svg("svg", { viewBox: "0 0 16 16", class: "swatch", "aria-hidden": "true" }, TH.mark(8, 8, colour, 5));

  // Buttons that show and hide rows, in the gallery and in the curves.
  TH.chips = (table) => {
    const box = el("div", { class: "chips", role: "group", "aria-label": "Rows shown" });
    table.rows.forEach((row, i) => {
      if (row.strategy === "ground-truth") return;
      const chip = TH.button([TH.swatch(TH.colour(row)), ` ${row.title}`], () => {
        const rows = TH.state.rows;
        if (!rows.delete(i)) rows.add(i);
        chip.setAttribute("aria-pressed", String(rows.has(i)));
        if (table.gallery.clips.length) TH.showTiles(table);
        TH.drawCurves(table);
      }, { class: "chip", "aria-pressed": String(TH.state.rows.has(i)) });
      box.append(chip);
    });
    return box;
  };

  let panels = [];

  function linesOf(table, curve) {
    const whole = curve.lines.filter((line) => TH.state.rows.has(line.row));
    if (TH.state.over !== "clip") return whole;
    return whole.flatMap(({ row }) => {
      const found = TH.clipValues(table, row);
      const values = found && found.over_time[curve.name];
      return values ? [{ row, values, clips: null }] : [];
    });
  }

  TH.drawCurves = (table) => {
    const box = TH.by("curves");
    panels = [];
    if (!box || !table.curves.length) return;
    const clips = table.gallery.clips.length > 0;
    const over = (what) => { TH.state.over = what; TH.drawCurves(table); TH.by("over").focus(); };
    const choice = TH.select("Quality over time, of", [["all", "all clips"], ["clip", "this clip"]], TH.state.over, over, "over");
    const head = clips ? el("div", { class: "controls" }, choice) : null;
    const drawn = table.curves.map((curve) => panel(table, curve));
    box.replaceChildren(...[head, el("div", { class: "panels" }, drawn)].filter(Boolean));
    TH.moveCurves(TH.player.frame);
  };

  function panel(table, curve) {
    const lines = linesOf(table, curve);
    const values = lines.flatMap((line) => line.values).filter((v) => v !== null);
    const figure = el("figure", { class: "panel" }, el("figcaption", { text: curve.heading }));
    if (!values.length) {
      figure.append(el("p", { class: "hint", text: lines.length ? "no values" : "no row that is shown has values" }));
      return figure;
    }
    const bins = Math.max(...lines.map((line) => line.values.length));
    const end = bins * curve.frames;
    const label = `${curve.heading} over time, a line for each of ${lines.length} rows`;
    const frame = TH.axes({ x: [0, end], y: [Math.min(...values), Math.max(...values)], xlabel: "frame", label });
    const dots = lines.map((line) => draw(frame, curve, line, table.rows[line.row]));
    const cursor = svg("line", { class: "cursor", y1: frame.top, y2: frame.bottom });
    frame.chart.append(cursor);
    const list = el("ul", { class: "readout" });
    figure.append(frame.chart, list);
    if (table.gallery.clips.length) {
      frame.chart.classList.add("seeks");
      frame.chart.addEventListener("click", (event) => {
        const at = (event.offsetX / frame.chart.clientWidth) * frame.w;
        TH.player.seek(((at - frame.left) / (frame.right - frame.left)) * end);
      });
    }
    panels.push({ frame, cursor, lines, dots, list, curve, end, table });
    return figure;
  }

  // A bin is drawn at its middle. Where fewer clips count than at the start, the line is dotted.
  function draw(frame, curve, line, row) {
    const colour = TH.colour(row), whole = [], fewer = [];
    line.values.forEach((value, k) => {
      if (value === null) return;
      const point = `${frame.atX((k + 0.5) * curve.frames).toFixed(1)},${frame.atY(value).toFixed(1)}`;
      if (line.clips && line.clips[k] < line.clips[0]) {
        if (!fewer.length && whole.length) fewer.push(whole[whole.length - 1]);
        fewer.push(point);
      } else whole.push(point);
    });
    const title = svg("title", { text: row.title });
    frame.chart.append(svg("polyline", { class: `line ${colour}`, points: whole.join(" ") }, title));
    if (fewer.length) frame.chart.append(svg("polyline", { class: `line fewer ${colour}`, points: fewer.join(" ") }));
    const dot = TH.mark(0, 0, colour, 3.5);
    frame.chart.append(dot);
    return dot;
  }

  TH.moveCurves = (frame) => {
    for (const panel of panels) {
      const moving = panel.table.gallery.clips.length > 0;
      const bin = Math.floor(frame / panel.curve.frames);
      const x = panel.frame.atX(Math.min(frame + 0.5, panel.end));
      panel.cursor.setAttribute("x1", x);
      panel.cursor.setAttribute("x2", x);
      panel.cursor.classList.toggle("off", !moving || frame >= panel.end);
      panel.lines.forEach((line, i) => {
        const value = line.values[bin], dot = panel.dots[i];
        const seen = value !== undefined && value !== null;
        dot.classList.toggle("off", !seen || !moving);
        if (seen) dot.setAttribute("transform", `translate(${panel.frame.atX((bin + 0.5) * panel.curve.frames)} ${panel.frame.atY(value)})`);
      });
      if (panel.bin === bin || !moving) continue;
      panel.bin = bin;
      const first = bin * panel.curve.frames;
      panel.list.replaceChildren(el("li", { class: "span", text: `frames ${first + 1} to ${first + panel.curve.frames}` }),
        ...panel.lines.map((line) => {
          const value = line.values[bin], row = panel.table.rows[line.row];
          const text = value === undefined || value === null ? "–" : TH.number(value);
          return el("li", { title: row.title }, TH.swatch(TH.colour(row)), ` ${text}`, el("span", { class: "sr", text: ` ${row.title}` }));
        }));
    }
  };
}
