"""The parts of `scripts/prepare.py`. Standard library only: this code runs before anything is installed.

pins                 which versions, and the sha256 of every byte that is trusted
wheels               one file out of a pinned wheel, kept in the user's cache folder
folders              lock, stamps and the rename that makes a finished folder appear at once
kubernetes           a control plane for the tests, built from Go modules into the user's cache folder
python_environment   prepared/venv and the packages in it
console              what the user sees: steps with their time, errors of one line
"""
