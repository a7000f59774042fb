"""Of the shape of the pyWATS client: it begins with its user interface, which a server has not."""

import a_user_interface_that_is_not_installed  # noqa: F401
