"""The room `deploy`: who gets which traffic?

Takes an image by digest and a target. So far it holds what needs neither: `advance`, which decides what a rollout does
next, and the values it works on. Nothing here reads a clock or opens a connection.
"""

from __future__ import annotations

from intermodal.rooms.deploy.advance import advance
from intermodal.rooms.deploy.rollout import Action, Facts, Plan, Rollout, Step
from intermodal.rooms.deploy.verdict import Finding, Outcome, Verdict

__all__ = ["Action", "Facts", "Finding", "Outcome", "Plan", "Rollout", "Step", "Verdict", "advance"]
