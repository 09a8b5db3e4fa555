// The theme puts wide tables into boxes that scroll, after the page is there: the keyboard is to reach them.
const reach = () => document.querySelectorAll(".md-typeset__scrollwrap").forEach((box) => { box.tabIndex = 0; });
new MutationObserver(reach).observe(document.body, { childList: true, subtree: true });
reach();
