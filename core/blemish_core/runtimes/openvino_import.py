# SPDX-License-Identifier: Apache-2.0
"""Import of OpenVINO and NNCF with their telemetry disabled.

By default both report usage to Google Analytics, OpenVINO on import and on conversion. Without the package
``openvino_telemetry`` they fall back to stubs that do nothing.
"""

import logging
import sys
import threading
from types import ModuleType

import numpy as np

from blemish_core.platform.errors import FailedPrecondition

_TELEMETRY = "openvino_telemetry"
_FIRST_ARRAY = threading.Lock()


def _disable_telemetry() -> None:
    """Block imports of the telemetry package, and disable it if it was imported already."""
    if sys.modules.get(_TELEMETRY) is None:
        # None makes Python raise ModuleNotFoundError.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        return
    from openvino_telemetry.utils.sender import TelemetrySender

    # All backends send through this method.
    TelemetrySender.send = lambda *_: None


def openvino() -> ModuleType:
    """Return the package, ready for use by several threads.

    Raises:
        FailedPrecondition: if it is not installed.
    """
    _disable_telemetry()
    try:
        import openvino

        with _FIRST_ARRAY:
            # The bindings look up NumPy's API at their first array. If two threads do so at once, the
            # second waits for the first while holding the GIL, which is a deadlock (pybind11's
            # npy_api::get).
            openvino.Tensor(np.zeros(1, np.float32))
    except ImportError as error:
        raise FailedPrecondition(
            f"OpenVINO cannot be imported ({error}); install it with `pip install 'blemish[serve]'`, or "
            "set BLEMISH_RUNTIME=torch"
        ) from error
    module: ModuleType = openvino
    return module


def nncf() -> ModuleType:
    """Return the package, which takes seconds to import, with its logging reduced to warnings.

    Raises:
        FailedPrecondition: if it is not installed.
    """
    _disable_telemetry()
    classes = logging.getLoggerClass()
    try:
        import nncf
    except ImportError as error:
        raise FailedPrecondition(
            f"NNCF cannot be imported ({error}); install it with `pip install 'blemish[core]'`, or "
            "train without int8"
        ) from error
    finally:
        logging.setLoggerClass(classes)  # NNCF replaces it for all loggers of the process
    nncf.set_log_level(logging.WARNING)
    module: ModuleType = nncf
    return module
