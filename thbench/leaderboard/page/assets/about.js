"use strict";
// Plans as pictures, and where a row comes from.
{
  const { el, svg } = TH;
  const SHADES = 5;

  function picture(plan, label) {
    const paths = Array.from({ length: SHADES + 1 }, () => "");
    for (const [y, x, w, shade] of plan.cells) paths[shade] += `M${x} ${y}h${w}v1h${-w}z`;
    return svg("svg", { class: "plan", viewBox: `0 0 ${plan.frames} ${plan.calls}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
      paths.map((d, shade) => (d ? svg("path", { class: `p${shade}`, d }) : null)));
  }

  function planFigure(plan, titles) {
    const label = `${plan.plan}: which of ${plan.frames} frames are generated in each of ${plan.calls} calls`;
    return el("figure", { class: "panel" }, el("figcaption", {}, titles.join(", "), el("small", { text: ` ${plan.plan}` })),
      picture(plan, label), el("p", { class: "hint", text: `${plan.frames} frames across, ${plan.calls} network calls down. Plan ${plan.from}.` }));
  }

  TH.drawPlans = (table) => {
    const part = TH.by("plan-part");
    part.replaceChildren();
    const groups = new Map();
    for (const row of table.rows) {
      if (!row.plan) continue;
      const key = `${row.plan.plan}|${row.plan.from}|${row.plan.frames}`;
      if (!groups.has(key)) groups.set(key, [row.plan, []]);
      groups.get(key)[1].push(row.title);
    }
    part.hidden = !groups.size;
    if (part.hidden) return;
    const key = el("p", { class: "key" }, "Each line is one call of the network, from top to bottom: ",
      el("span", { class: "box p5" }), " noise, ", el("span", { class: "box p3" }), " in between, ", el("span", { class: "box p1" }), " nearly clean, ",
      el("span", { class: "box p0" }), " finished and observed.");
    part.append(el("h2", { id: "plan-title", text: "Order of frames" }), key,
      el("div", { class: "panels" }, [...groups.values()].map(([plan, titles]) => planFigure(plan, titles))));
    const without = table.rows.filter((row) => !row.plan).map((row) => row.title);
    if (without.length) part.append(el("p", { class: "hint", text: `Without a plan that is known here: ${without.join(", ")}.` }));
  };

  TH.about = (table, row) => {
    const dialog = TH.by("about");
    const close = TH.button("Close", () => dialog.close(), { class: "close" });
    const sections = row.about.map(([name, lines]) => [el("h3", { text: name }),
      el("dl", {}, lines.flatMap(([term, text]) => [el("dt", { text: term }), el("dd", { text })]))]);
    dialog.replaceChildren(el("div", { class: "bar" }, el("h2", { id: "about-title" }, row.title, " ", TH.badge(row.origin)), close),
      ...(row.plan ? [planFigure(row.plan, ["Plan:"])] : []), ...sections.flat());
    dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); };
    dialog.showModal();
    dialog.scrollTop = 0;
  };
}
