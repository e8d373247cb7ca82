"""The dashboard: a Streamlit app that reads a workspace and queues jobs."""
