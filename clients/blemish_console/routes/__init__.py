# SPDX-License-Identifier: Apache-2.0
"""The parts of the console that are not pages of NiceGUI: sign-in and files."""
