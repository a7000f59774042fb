"""A converter that needs what is not installed."""

import nothing_of_that_name

Any = nothing_of_that_name.Converter
