"""Tests; a package so that the stand-ins they share can be imported."""
