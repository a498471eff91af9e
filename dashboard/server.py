"""The dashboard as a server: Streamlit's, which answers nobody but its own pages."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from dashboard.hosts import HostCheck, further_names

_check = Middleware(HostCheck, names=further_names(), bound=st.get_option("server.address"))
app = st.App(Path(__file__).with_name("app.py"), middleware=[_check])
