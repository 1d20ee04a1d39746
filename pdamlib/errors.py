"""The one exception that speaks to the user: a clear line naming the file or setting and the cure."""


class UserError(Exception):
    """Something the user can put right; the command prints it on one line and exits with 2."""
