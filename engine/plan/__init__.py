"""The plan of an audit: strict, printable, and checked as a whole before any work is spent."""

from engine.plan.plan import DEFAULT_PLAN, Plan, make_plan, read_plan

__all__ = ["DEFAULT_PLAN", "Plan", "make_plan", "read_plan"]
