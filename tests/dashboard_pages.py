"""Opening one page of the dashboard under test."""

from streamlit.testing.v1 import AppTest


def open_page(name, root, monkeypatch, **query):
    """Run the page `name` on the workspace at `root` with this address, and return it.

    AppTest cannot go to a page that is a function, so the page is opened as the first one.
    """
    monkeypatch.setenv("PUMA_WORKSPACE", str(root))
    script = f"from dashboard import pages\npages.navigation({name!r}).run()"
    app = AppTest.from_string(script, default_timeout=60)
    for key, value in query.items():
        app.query_params[key] = value
    return app.run()
