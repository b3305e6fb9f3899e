"""What holds for all tests."""

from hypothesis import settings

# No deadline, because tests time nothing; the same examples every time, so that a red test is red for everybody.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("house")
