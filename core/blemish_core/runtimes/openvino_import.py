# SPDX-License-Identifier: Apache-2.0
"""OpenVINO and NNCF, imported in one place with their telemetry off: no factory's machine calls anybody.

Both report to Google Analytics (OpenVINO when it is imported, again when it converts) unless a file in the
home folder says no. Without the package ``openvino_telemetry`` they fall back to stubs that do nothing.
"""

import logging
import sys
import threading
from types import ModuleType

import numpy as np

from blemish_core.platform.errors import FailedPrecondition

_TELEMETRY = "openvino_telemetry"
_ONE_AT_A_TIME = threading.Lock()


def _silence() -> None:
    """Have imports of the telemetry package fail, and what was imported of it before send nothing."""
    if sys.modules.get(_TELEMETRY) is None:
        # Python's own way to say that a module is not to be had.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        return
    from openvino_telemetry.utils.sender import TelemetrySender

    # All messages of all its backends pass here.
    TelemetrySender.send = lambda *_: None


def openvino() -> ModuleType:
    """Return the package, past what only one thread may do first.

    Raises:
        FailedPrecondition: if it is not installed.
    """
    _silence()
    try:
        import openvino

        with _ONE_AT_A_TIME:
            # Its bindings find numpy's interface at their first array. A second thread with a first array
            # meanwhile waits for that with the interpreter's lock held, which the finder needs: the process
            # stands still for ever (pybind11's npy_api::get).
            openvino.Tensor(np.zeros(1, np.float32))
    except ImportError as error:
        raise FailedPrecondition(
            f"OpenVINO cannot be loaded here ({error}): install it with `pip install 'blemish[core]'`, or "
            "set BLEMISH_RUNTIME=torch"
        ) from error
    module: ModuleType = openvino
    return module


def nncf() -> ModuleType:
    """Return the package, which takes seconds to load, with its talk in the log from warnings on.

    Raises:
        FailedPrecondition: if it is not installed.
    """
    _silence()
    classes = logging.getLoggerClass()
    try:
        import nncf
    except ImportError as error:
        raise FailedPrecondition(
            f"NNCF cannot be loaded here ({error}): install it with `pip install 'blemish[core]'`, or "
            "train without int8"
        ) from error
    finally:
        logging.setLoggerClass(classes)  # NNCF puts its own in place, for everybody's loggers
    nncf.set_log_level(logging.WARNING)
    module: ModuleType = nncf
    return module
