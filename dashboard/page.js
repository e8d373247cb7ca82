// Streamlit guesses from a page's address whether the server is below it, and would ask for files that
// do not exist. Its own files are beside every page, so the server is too.
window.__streamlit = {BACKEND_BASE_URL: new URL("./", location.href).href};

// Icons in texts are decoration: a screen reader would read out their names, as in "help icon Not settled yet".
new MutationObserver(() => {
  for (const icon of document.querySelectorAll('[role="img"][aria-label$=" icon"]:not([aria-hidden])')) {
    icon.setAttribute("aria-hidden", "true");
  }
}).observe(document, {childList: true, subtree: true});
