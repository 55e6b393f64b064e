"""The paper's experiment: the same problems for a plain model and for one with a computer.

Heavy libraries are those of the extra `bench` and are imported by what needs them alone.
"""
