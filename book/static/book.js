// Excerpts of search results are fetched, which browsers refuse to pages opened from disk.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// What scrolls sideways can be reached by keyboard, as the theme sees to it for code.
(() => {
  const look = () => {
    for (const box of document.querySelectorAll(".pst-scrollable-table-container, div.math")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  let soon;
  addEventListener("resize", () => {
    clearTimeout(soon);
    soon = setTimeout(look, 100);
  });
  // equations have their width once they are drawn
  addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(look));
})();
