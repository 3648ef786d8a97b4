"use strict";
// What is chosen, and the keyboard.
{
  const { el, by } = TH;
  const ALL = "";
  const ORIGINS = {
    "measured": "Measured here, on recordings of people.",
    "measured (synthetic)": "Measured here, on rendered faces: it says which order of frames does what, not how real faces would look.",
    "reported": "As a paper prints it. Nothing of it was measured here, so it stands in no ranking with what was.",
    "smoke": "Smoke: tiny networks, trained for minutes. It shows that everything runs and says nothing of quality.",
    "not scored": "Videos alone: no measurements were taken of them.",
  };
  const PAPERS = "the papers' own";
  const tables = (window.THBENCH || { tables: [] }).tables;

  TH.state = { table: null, rows: new Set(), clip: null, seed: null, metric: null, sound: null, over: "all",
    sort: { column: null, down: false }, hidden: new Set(), words: "" };

  const FILTERS = { "f-data": (t) => t.data || (t.origin === "reported" ? PAPERS : "none"), "f-protocol": (t) => t.protocol || "none", "f-origin": (t) => t.origin };

  function matching(but) {
    return tables.filter((table) => Object.entries(FILTERS).every(([id, of]) => id === but || by(id).value === ALL || of(table) === by(id).value));
  }

  // Every choice offers what the other choices leave.
  function fillFilters() {
    for (const [id, of] of Object.entries(FILTERS)) {
      const left = [...new Set(matching(id).map(of))];
      TH.options(by(id), [[ALL, "all"], ...left.map((v) => [v, v])], by(id).value);
    }
    const left = matching(), groups = new Map();
    for (const table of left) {
      if (!groups.has(table.origin)) groups.set(table.origin, el("optgroup", { label: table.origin }));
      groups.get(table.origin).append(el("option", { value: table.id, text: `${table.title} (${table.rows.length} rows)` }));
    }
    by("f-table").replaceChildren(...groups.values());
    if (TH.state.table && left.includes(TH.state.table)) by("f-table").value = TH.state.table.id;
    else if (left.length) choose(first(left));
  }

  // Videos say most; then the table with most rows.
  function first(left) {
    const rank = (t) => [t.gallery.clips.length > 0, t.origin !== "reported", t.origin !== "smoke", t.rows.length];
    const better = (a, b) => { const [x, y] = [rank(a), rank(b)]; const k = x.findIndex((v, i) => v !== y[i]); return k >= 0 && x[k] > y[k]; };
    return left.reduce((a, b) => (better(b, a) ? b : a));
  }

  function choose(table) {
    const state = TH.state;
    Object.assign(state, { table, clip: null, seed: null, sound: null, over: "all", sort: { column: null, down: false }, words: "" });
    state.rows = new Set(table.rows.keys());
    state.hidden = new Set(table.columns.filter((c) => !c.values).map((c) => c.name));
    by("f-table").value = table.id;
    TH.player.frame = 0;
    const facts = el("dl", { class: "facts" }, table.facts.map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", { text }))));
    const origin = el("p", { class: "hint", text: ORIGINS[table.origin] || "" });
    const notes = table.columns.length ? [] : table.notes.map((text) => el("p", { class: "hint", text }));
    by("head-part").replaceChildren(el("div", { class: "title" }, el("h2", { text: table.title }), TH.badge(table.origin)), origin, facts, ...notes);
    TH.drawGallery(table);
    TH.drawTable(table);
    TH.drawCost(table);
    TH.drawPlans(table);
    const links = [["watch-part", table.gallery.clips.length ? "Videos" : "Over time"], ["table-part", "Table"], ["cost-part", "Cost"], ["plan-part", "Plans"]];
    by("parts").replaceChildren(...links.filter(([id]) => !by(id).hidden).map(([id, text]) => el("a", { href: `#${id}`, text })));
    document.title = `${table.title} · thbench results`;
  }

  // Keys work wherever they do not already mean something else.
  const KEYS = {
    " ": () => TH.player.toggle(), ",": () => TH.player.step(-1), ".": () => TH.player.step(1),
    ArrowLeft: () => TH.player.step(-1), ArrowRight: () => TH.player.step(1),
    Home: () => TH.player.seek(0), End: () => TH.player.seek(TH.player.frames - 1),
    "[": () => TH.nextClip(TH.state.table, -1), "]": () => TH.nextClip(TH.state.table, 1),
  };
  document.addEventListener("keydown", (event) => {
    const run = KEYS[event.key], at = event.target;
    if (!run || !TH.player.videos.length || event.ctrlKey || event.metaKey || event.altKey || by("about").open) return;
    if (at.closest("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
    const moves = event.key === "Home" || event.key === "End" || event.key.startsWith("Arrow");
    if (moves && at.closest("input, .scroll")) return;
    if (event.key === " " && at.closest("button, summary, a, input[type=checkbox]")) return;
    event.preventDefault();
    run();
  });

  const themes = ["auto", "light", "dark"];
  function paint(theme) {
    document.documentElement.dataset.theme = theme;
    by("theme").textContent = `Colours: ${theme}`;
  }
  function remembered() {
    try { return localStorage.getItem("thbench-theme"); } catch { return null; } // some browsers keep nothing for files
  }
  by("theme").addEventListener("click", () => {
    const theme = themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % themes.length];
    paint(theme);
    try { localStorage.setItem("thbench-theme", theme); } catch { /* it lasts as long as the page */ }
  });

  paint(themes.includes(remembered()) ? remembered() : "auto");
  if (!tables.length) {
    by("head-part").append(el("p", { class: "empty", text: "data.js is missing or empty beside this page: write the page again with thbench leaderboard --html." }));
  } else {
    for (const id of Object.keys(FILTERS)) {
      TH.options(by(id), [[ALL, "all"]], ALL);
      by(id).addEventListener("change", fillFilters);
    }
    by("f-table").addEventListener("change", () => choose(tables.find((t) => t.id === by("f-table").value)));
    by("filters").addEventListener("submit", (event) => event.preventDefault());
    choose(first(tables));
    fillFilters();
  }
}
