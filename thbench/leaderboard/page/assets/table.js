"use strict";
// The table: sorted by a column, filtered by words, with the columns that are chosen.
{
  const { el, button } = TH;

  TH.drawTable = (table) => {
    const part = TH.by("table-part");
    part.replaceChildren();
    part.hidden = !table.columns.length;
    if (part.hidden) return;
    const box = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table, scrolls sideways" });
    const count = el("p", { class: "hint", id: "count" });
    const draw = () => { box.replaceChildren(grid(table)); count.textContent = counted(table); };
    part.append(el("h2", { id: "table-title", text: "Table" }), controls(table, draw), count, box, below(table));
    TH.redrawTable = draw;
    draw();
  };

  const shownColumns = (table) => table.columns.map((c, i) => [c, i]).filter(([c]) => !TH.state.hidden.has(c.name));

  function counted(table) {
    const rows = shownRows(table).length, columns = shownColumns(table).length;
    const empty = table.columns.filter((c) => !c.values && TH.state.hidden.has(c.name)).length;
    const why = empty ? `; ${empty} without any value are hidden` : "";
    return `${rows} of ${table.rows.length} rows, ${columns} of ${table.columns.length} columns${why}. A click on a heading sorts, one on a row's name says where it comes from.`;
  }

  function controls(table, draw) {
    const search = el("input", { type: "search", id: "words", value: TH.state.words, placeholder: "all rows",
      on: { input: () => { TH.state.words = search.value; draw(); } } });
    const boxes = table.columns.map((column) => {
      const box = el("input", { type: "checkbox", value: column.name, on: { change: () => {
        if (box.checked) TH.state.hidden.delete(column.name);
        else TH.state.hidden.add(column.name);
        draw();
      } } });
      box.checked = !TH.state.hidden.has(column.name);
      return [column, box, el("label", { class: column.values ? "" : "without" }, box, ` ${column.heading}`)];
    });
    const choose = (text, wanted) => button(text, () => {
      for (const [column, box] of boxes) {
        box.checked = wanted(column);
        if (box.checked) TH.state.hidden.delete(column.name);
        else TH.state.hidden.add(column.name);
      }
      draw();
    });
    const marked = new Set(table.columns.filter((c, i) => table.rows.some((row) => row.cells[i].mark)).map((c) => c.name));
    const columns = el("details", { class: "columns", id: "columns" }, el("summary", { text: "Columns" }),
      el("div", { class: "controls" }, choose("All", () => true), choose("With values", (c) => c.values > 0),
        choose("Where rows differ", (c) => marked.has(c.name)), choose("None", () => false)),
      el("div", { class: "boxes" }, boxes.map(([, , label]) => label)));
    return el("div", { class: "controls" }, el("label", {}, "Rows with ", search), columns);
  }

  function shownRows(table) {
    const words = TH.state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (row) => words.every((word) => `${row.title} ${row.run} ${row.strategy}`.toLowerCase().includes(word));
    const rows = table.rows.filter(has), { column, down } = TH.state.sort;
    if (column === null) return rows;
    const at = table.columns.findIndex((c) => c.name === column);
    const key = (row) => (column === "" ? row.title.toLowerCase() : row.cells[at].key);
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null); // what has no value stays last
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    };
    // What does not compete stays above, as in the table's own order.
    return [...rows.filter((row) => !row.ranked), ...rows.filter((row) => row.ranked).sort(order)];
  }

  function grid(table) {
    const columns = shownColumns(table);
    const head = el("tr", {}, heading("", "Row", table.origin), columns.map(([c]) => heading(c.name, c.heading)));
    const rows = shownRows(table).map((row) => el("tr", { class: row.ranked ? "" : "unranked" },
      el("th", { scope: "row" }, button([TH.swatch(TH.colour(row)), ` ${row.title}`], () => TH.about(table, row), { class: "name" })),
      columns.map(([, i]) => cell(row.cells[i]))));
    if (!rows.length) rows.push(el("tr", {}, el("td", { class: "empty", colspan: columns.length + 1, text: "No row has these words." })));
    return el("table", {}, el("caption", { class: "sr", text: table.title }), el("thead", {}, head), el("tbody", {}, rows));
  }

  function heading(name, text) {
    const { column, down } = TH.state.sort, own = column === name;
    const turn = () => {
      // Best first, worst first, the table's own order.
      TH.state.sort = !own ? { column: name, down: false } : down ? { column: null, down: false } : { column: name, down: true };
      TH.redrawTable();
      const again = [...document.querySelectorAll("#table-part thead button")].find((b) => b.dataset.column === name);
      if (again) again.focus();
    };
    const sign = own ? (down ? " ▾" : " ▴") : "";
    return el("th", { scope: "col", "aria-sort": own ? (down ? "descending" : "ascending") : "none" },
      button([text, el("span", { class: "sign", "aria-hidden": "true", text: sign })], turn, { "data-column": name }));
  }

  function cell(found) {
    const inside = [el(found.mark === "best" ? "strong" : found.mark === "second" ? "u" : "span", { text: found.value })];
    if (found.mark) inside.push(el("span", { class: "sr", text: ` ${found.mark}` }));
    if (found.footnote) inside.push(el("sup", { text: found.footnote }));
    if (found.interval) inside.push(el("small", { text: found.interval }));
    return el("td", { class: found.mark || "" }, inside);
  }

  function below(table) {
    const box = el("div", { class: "below" });
    if (table.legend.length) box.append(el("p", { class: "hint", text: table.legend.join(" ") }));
    if (table.notes.length)
      box.append(el("details", { class: "notes" }, el("summary", { text: `${table.notes.length} notes` }),
        el("ul", {}, table.notes.map((text) => el("li", { text })))));
    if (table.controls.length) {
      const head = ["Metric", "Row", "Own audio", "Another's", "Median difference", "Clips", "Test"];
      const lines = table.controls.map((line) => el("tr", {}, line.map((text) => el("td", { text }))));
      box.append(el("details", { class: "notes" }, el("summary", { text: `With another clip's audio: ${lines.length} lines` }),
        el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Controls, scroll sideways" },
          el("table", {}, el("thead", {}, el("tr", {}, head.map((text) => el("th", { scope: "col", text })))), el("tbody", {}, lines)))));
    }
    return box;
  }
}
