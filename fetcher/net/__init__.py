"""Requests and answers: transport, guard, pacing and retries of API calls. Knows HTTP, and no origin's dialect."""
