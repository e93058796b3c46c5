// Filter and sort the ledger. Without this script the table stands as it is.
(() => {
  "use strict";

  const DOCUMENTS = ["Paper", "Thesis", "Book"];
  const VERDICTS = ["holds", "holds in part", "does not hold", "not run here"];

  const described = (row) => {
    const badge = row.querySelector(".claim-badge").textContent;
    const source = row.querySelector("strong").textContent;
    const id = row.querySelector("code").textContent;
    return {
      row,
      text: row.textContent.toLowerCase(),
      // a badge is a symbol, a space and the verdict
      verdict: badge.trim().slice(2),
      document: DOCUMENTS.find((name) => source.startsWith(name)),
      chapter: id.split(".")[0],
    };
  };

  const select = (label, options) => {
    const box = document.createElement("label");
    const list = document.createElement("select");
    // the label's own text would include the options
    list.setAttribute("aria-label", label);
    for (const [value, text] of options) list.add(new Option(text, value));
    box.append(label, list);
    return [box, list];
  };

  const start = (table) => {
    const rows = [...table.tBodies[0].rows].map(described);
    const chapters = [...new Set(rows.map((r) => r.chapter))].sort();
    const any = ["", "any"];
    const named = (names) => [any, ...names.map((n) => [n, n])];

    const search = document.createElement("input");
    search.type = "search";
    search.placeholder = "any";
    search.setAttribute("aria-label", "Words");
    const words = document.createElement("label");
    words.append("Words", search);
    const [verdictBox, verdict] = select("Verdict", named(VERDICTS));
    const [documentBox, source] = select("Document", named(DOCUMENTS));
    const [chapterBox, chapter] = select("Chapter", named(chapters));
    const [orderBox, order] = select("Order", [
      ["", "documents"],
      ["chapter", "chapters"],
      ["verdict", "verdicts"],
    ]);
    const shown = document.createElement("output");

    const ranked = {
      chapter: (r) => chapters.indexOf(r.chapter),
      verdict: (r) => VERDICTS.indexOf(r.verdict),
    };
    const apply = () => {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const r of rows) {
        r.row.hidden =
          (verdict.value && r.verdict !== verdict.value) ||
          (source.value && r.document !== source.value) ||
          (chapter.value && r.chapter !== chapter.value) ||
          !wanted.every((word) => r.text.includes(word));
        count += !r.row.hidden;
      }
      shown.value = `${count} of ${rows.length} rows`;
    };
    const sort = () => {
      const rank = ranked[order.value];
      // sort() is stable: equals stay in the order of the documents
      const sorted = rank ? [...rows].sort((a, b) => rank(a) - rank(b)) : rows;
      table.tBodies[0].append(...sorted.map((r) => r.row));
    };

    const form = document.createElement("form");
    form.className = "ledger-filter";
    form.setAttribute("role", "search");
    form.setAttribute("aria-label", "Filter the claims");
    form.append(words, verdictBox, documentBox, chapterBox, orderBox, shown);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", apply);
    order.addEventListener("input", sort);
    apply();
    table.closest(".ledger-scroll").before(form);
  };

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("table.claims-ledger").forEach(start);
  });
})();
