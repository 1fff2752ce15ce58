"""Test doors: what the project's own tests, its examples and its users' tests run against.

    testing.anthropic   FakeAnthropic, Anthropic's Messages API over real HTTP, scripted and recorded
    testing.offline     OfflineModel, an Agno model that talks, calls tools and reads pictures with no network
    testing.scripted    ScriptedModel, an Agno model that plays exactly the turns it is given
    testing.picture     a word as a PNG, and back

Nothing is imported here: each door is opened by its own name, so that the one that needs Agno or uvicorn costs
nothing to those who need neither. They need `dragoman[server]`; testing.anthropic needs `dragoman[server,testing]`.
"""
