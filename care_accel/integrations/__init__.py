"""Adapters for frameworks: LangChain, LlamaIndex and Haystack.

Each module is imported by its own name and needs the extra of that name: ``care_accel.integrations.langchain``,
``care_accel.integrations.llamaindex``, ``care_accel.integrations.haystack``. Texts of a framework's documents go to the document
encoder, its queries to the query encoder, and vectors are the library's own.
"""
