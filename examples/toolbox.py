"""`toolbox`: a plain Agno agent with several tools, one of which always fails."""

import ast
import operator
from collections.abc import Callable, Mapping

from agno.agent import Agent
from agno.tools import Toolkit

from examples.models import model

WEATHER: Mapping[str, str] = {
    "berlin": "9 degrees Celsius and rain",
    "cape town": "24 degrees Celsius and sunny",
    "johannesburg": "21 degrees Celsius and a thunderstorm",
    "london": "12 degrees Celsius and fog",
    "paris": "17 degrees Celsius and cloudy",
    "rome": "26 degrees Celsius and sunny",
}

OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

LONGEST_EXPRESSION = 200
"""Characters."""


def calculate(expression: str) -> str:
    """Calculates an arithmetic expression with + - * / and parentheses.

    Args:
        expression: For example (2 + 3) * 4.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise ValueError("the expression is too long")
    return f"{_value(ast.parse(expression, mode='eval').body):.10g}"


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in OPERATORS:
            return OPERATORS[type(kind)](_value(left), _value(right))
        case _:
            raise ValueError("only numbers, + - * / and parentheses are understood")


async def weather(city: str) -> str:
    """Tells the weather in a city.

    Args:
        city: The name of the city.
    """
    return WEATHER.get(city.casefold(), f"the weather in {city} is not known")


def read_sensor(name: str) -> str:
    """Reads a sensor of the building. It is broken: this always fails.

    Args:
        name: The name of the sensor.
    """
    raise ConnectionError(f"sensor {name} does not answer")


class UnitTools(Toolkit):
    """Conversions between units."""

    def __init__(self) -> None:
        super().__init__(name="units", tools=[self.kilometres_to_miles, self.celsius_to_fahrenheit])

    def kilometres_to_miles(self, kilometres: float) -> str:
        """Converts kilometres to miles.

        Args:
            kilometres: The distance.
        """
        return f"{kilometres / 1.609344:.4g} miles"

    def celsius_to_fahrenheit(self, celsius: float) -> str:
        """Converts degrees Celsius to degrees Fahrenheit.

        Args:
            celsius: The temperature.
        """
        return f"{celsius * 9 / 5 + 32:.4g} degrees Fahrenheit"


def toolbox() -> Agent:
    """The agent. It is called once, and every run gets a copy of what it returns."""
    return Agent(
        name="toolbox",
        description="Calculates, converts units, knows the weather of six cities, and has a sensor that fails.",
        model=model(),
        tools=[calculate, weather, UnitTools(), read_sensor],
        instructions="Use the tools. When one fails, say so and go on.",
    )
