"use strict";
// What quality costs: a cost against a quality, and cost against length.
{
  const { el, svg } = TH;
  const CHANCE = "Whether rows differ by more than chance, the table's marks say.";

  TH.drawCost = (table) => {
    const part = TH.by("cost-part");
    part.replaceChildren();
    part.hidden = !table.columns.length || table.origin === "reported" || table.origin === "not scored";
    if (part.hidden) return;
    part.append(el("h2", { id: "cost-title", text: "Time and quality" }));
    const wide = el("div", { class: "pair" }, against(table), longer(table));
    part.append(wide);
  };

  const known = (table, i) => table.rows.filter((row) => row.cells[i].number !== null);

  function against(table) {
    const indexed = table.columns.map((c, i) => ({ ...c, i }));
    const costs = indexed.filter((c) => c.cost && c.values > 0).sort((a, b) => b.name.includes("(s)") - a.name.includes("(s)"));
    const qualities = indexed.filter((c) => !c.cost && c.direction && c.values > 1);
    const figure = el("figure", { class: "panel" });
    if (!costs.length || !qualities.length) {
      figure.append(el("figcaption", { text: "Cost against quality" }), el("p", { class: "hint",
        text: costs.length ? "No column of quality has two values." : "No row of this table has a time or a count of network calls: yardsticks generate nothing." }));
      return figure;
    }
    const pick = { x: costs[0], y: qualities[0] };
    const chart = el("div", {}), hint = el("p", { class: "hint" });
    const draw = () => chart.replaceChildren(scatter(table, pick.x, pick.y, hint));
    const by = (list, key) => (name) => { pick[key] = list.find((c) => c.name === name); draw(); };
    figure.append(el("figcaption", { text: "Cost against quality" }), el("div", { class: "controls" },
      TH.select("Cost", costs.map((c) => [c.name, named(c)]), pick.x.name, by(costs, "x"), "cost-x"),
      TH.select("Quality", qualities.map((c) => [c.name, c.heading]), pick.y.name, by(qualities, "y"), "cost-y")), chart, hint);
    if (!costs.some((c) => c.name.includes("(s)")))
      figure.append(el("p", { class: "hint", text: "No times were taken for these rows, so cost is counted in network calls and frames." }));
    draw();
    return figure;
  }

  const named = (column) => (column.name === "Depth" ? "Depth (network calls in sequence)" : column.heading);

  function scatter(table, x, y, hint) {
    const rows = known(table, x.i).filter((row) => row.cells[y.i].number !== null);
    if (!rows.length) return el("p", { class: "hint", text: "No row has both." });
    const xs = rows.map((r) => r.cells[x.i].number), ys = rows.map((r) => r.cells[y.i].number);
    const log = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 5;
    const [low, high] = [Math.min(...xs), Math.max(...xs)];
    const pad = (high - low) * 0.08 || high * 0.5 || 1;
    const range = log ? [low / 1.4, high * 1.6] : [Math.max(0, low - pad), high + pad];
    const frame = TH.axes({ x: range, y: [Math.min(...ys), Math.max(...ys)], xlabel: named(x) + (log ? ", logarithmic" : ""),
      label: `${x.name} against ${y.name} of ${rows.length} rows`, log, w: width(), h: 320 });
    const best = x.comparable ? front(rows, x.i, y.i) : [];
    const points = best.map((row) => `${frame.atX(row.cells[x.i].number)},${frame.atY(row.cells[y.i].number)}`);
    if (points.length > 1) frame.chart.append(svg("polyline", { class: "front", points: points.join(" ") }));
    const marked = rows.map((row) => [row.title, frame.atX(row.cells[x.i].number), frame.atY(row.cells[y.i].number)]);
    rows.forEach((row, i) => frame.chart.append(TH.mark(marked[i][1], marked[i][2], TH.colour(row), 6)));
    names(frame, marked);
    const better = { lower: "Lower is better.", higher: "Higher is better.", zero: "Nearer to zero is better.", reference: "Nearer to the reference's value is better." }[y.direction];
    const said = !x.comparable ? "Times are of several machines, so no row is said to beat another."
      : best.length > 1 ? `The dashed line joins the rows that no other beats in both values. ${CHANCE}` : best.length ? `${best[0].title} is the cheapest and has the best value. ${CHANCE}` : "";
    hint.textContent = `${y.heading}, upwards. ${better} ${rows.length > 1 ? said : ""}`;
    return frame.chart;
  }

  // Rows that no other beats in both, from the cheapest on. Quality is compared by the table's own ranks.
  function front(rows, x, y) {
    const rivals = rows.filter((row) => row.ranked && row.cells[y].key !== null);
    const cost = (row) => row.cells[x].number, rank = (row) => row.cells[y].key;
    const beaten = (row) => rivals.some((other) => cost(other) <= cost(row) && rank(other) <= rank(row)
      && (cost(other) < cost(row) || rank(other) < rank(row)));
    return rivals.filter((row) => !beaten(row)).sort((a, b) => cost(a) - cost(b));
  }

  // Charts are narrow where the screen is, so that their words stay as large.
  const width = () => (window.innerWidth < 700 ? 340 : 520);

  // Names beside their marks, at the first place that covers neither a mark nor another name.
  function names(frame, marked) {
    const taken = marked.map(([, x, y]) => [x - 7, x + 7, y - 7, y + 7]);
    for (const [title, x, y] of marked) {
      const wide = title.length * 5.9;
      const beside = [0, -12, 12, -24, 24];
      const right = beside.map((by) => [x + 10, y + by]), left = beside.map((by) => [x - 10 - wide, y + by]);
      const far = [-14, 14, -27, 27, -40, 40].map((by) => [x - wide / 2, y + by]);
      const places = [...right, ...left, ...far];
      const box = ([left, middle]) => [left, left + wide, middle - 6, middle + 6];
      const free = (place) => {
        const [l, r, t, b] = box(place);
        return l > frame.left && r < frame.w && t > 0 && b < frame.bottom && !taken.some((o) => l < o[1] && r > o[0] && t < o[3] && b > o[2]);
      };
      const place = places.find(free) || places[0];
      taken.push(box(place));
      frame.chart.append(svg("text", { class: "name", x: place[0], y: place[1] + 4, text: title }));
    }
  }

  function longer(table) {
    const figure = el("figure", { class: "panel" }, el("figcaption", { text: "Cost against length" }));
    const lines = window.THBENCH.lengths.filter((line) => line.origin === table.origin);
    if (!lines.length) {
      figure.append(el("p", { class: "hint", text: "Needs results of one strategy with the same weights at two lengths of clips, such as protocols synthetic-64 and synthetic-64-long: there are none here." }));
      return figure;
    }
    const machines = new Set(lines.flatMap((l) => l.points.map((p) => p[3])));
    const timed = lines.filter((line) => line.points.every((point) => point[1] !== null));
    const seconds = timed.length > 0 && machines.size === 1;
    const drawn = seconds ? timed : lines, at = seconds ? 1 : 2;
    const all = drawn.flatMap((line) => line.points);
    const xs = all.map((p) => p[0]), ys = all.map((p) => p[at]);
    const what = seconds ? "seconds to generate" : "network calls in sequence";
    // Strategies of one call for each frame would press the others into a line.
    const logY = Math.min(...ys) > 0 && Math.max(...ys) / Math.min(...ys) > 5;
    const frame = TH.axes({ x: [0, Math.max(...xs) * 1.45], y: [logY ? Math.min(...ys) : 0, Math.max(...ys)], logY, xlabel: "frames of the clip", label: `${what} by length`, w: width(), h: 320 });
    const marked = [];
    for (const line of drawn) {
      const colour = TH.colour(line);
      const points = line.points.map((p) => [frame.atX(p[0]), frame.atY(p[at])]);
      frame.chart.append(svg("polyline", { class: `line ${colour}`, points: points.map((p) => p.join(",")).join(" ") }));
      for (const point of points) frame.chart.append(TH.mark(...point, colour, 5));
      marked.push([line.title, ...points[points.length - 1]]);
    }
    names(frame, marked);
    const why = seconds ? "" : timed.length ? " Times are of several machines, so they are not compared."
      : all.some((p) => p[1] !== null) ? " Times were not taken at every length." : " No times were taken.";
    figure.append(frame.chart, el("p", { class: "hint", text: `${what[0].toUpperCase()}${what.slice(1)}, upwards${logY ? ", logarithmic" : ""}; all tables of this origin.${why}` }));
    return figure;
  }
}
