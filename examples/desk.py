"""`desk`: an agent that asks a person before it acts: for a yes, for values, and for what only the caller can do."""

from agno.agent import Agent
from agno.tools import tool

from examples.models import model

ORDERS = {"A-17": "paid, and not sent yet", "B-4": "delivered"}


def order_status(order: str) -> str:
    """Tells how an order stands.

    Args:
        order: The number of the order, such as A-17.
    """
    return ORDERS.get(order, f"there is no order {order}")


@tool(requires_confirmation=True)
def refund(order: str, rands: float) -> str:
    """Refunds money for an order. A person has to say yes.

    Args:
        order: The number of the order, such as A-17.
        rands: How much.
    """
    return f"{rands:.2f} rands are refunded for order {order}"


@tool(requires_user_input=True, user_input_fields=["street", "city"])
def change_address(order: str, street: str = "", city: str = "") -> str:
    """Changes the address of an order. The customer fills in the address.

    Args:
        order: The number of the order, such as A-17.
        street: Street and number.
        city: The city.
    """
    return f"order {order} goes to {street}, {city}"


@tool(external_execution=True)
def print_label(order: str) -> str:
    """Prints the label of an order, on a printer that only the caller has.

    Args:
        order: The number of the order, such as A-17.
    """
    raise AssertionError("the caller executes it")


def desk() -> Agent:
    """The agent. It is called once, and every run gets a copy of what it returns."""
    return Agent(
        name="desk",
        description="Refunds, changes addresses and prints labels, and asks a person before it does.",
        model=model(),
        tools=[order_status, refund, change_address, print_label],
        instructions=(
            "Use the tools for whatever is asked, all that do not depend on each other at once. Whoever has to agree is "
            "asked by the tools themselves: never ask back. Leave street and city of an address empty."
        ),
    )
