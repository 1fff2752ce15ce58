"""Texts that Agno must not take for templates."""


class Verbatim(str):
    """A text of a caller or of a model, which is no template.

    Agno fills in `{name}` and `$name` in the author's instructions and, by the same setting, in what callers and the leaders
    of teams say. It leaves alone a text in which it sees neither sign.
    """

    __slots__ = ()

    def __contains__(self, sought: object) -> bool:
        return sought not in ("{", "$") and str.__contains__(self, sought)  # type: ignore[operator]  # raises as str does
