"""pandas frames as Arrow tables: only the named columns, their values as they are.

pandas is not imported here: whoever has a frame has brought it along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from nightrank.config.events import ColumnsConfig
from nightrank.config.strict import validate
from nightrank.data.tables import check_names
from nightrank.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def frame_table(frame: pd.DataFrame, *, columns: Mapping[str, str]) -> pa.Table:
    """The columns that `columns` (role to name) means, defaults included; NaN and None become null.

    Raises DataError on a column that is missing, occurs twice, or mixes types, such as integers and texts.
    """
    roles = validate(ColumnsConfig, dict(columns), source="interactions of a frame").model_dump()
    names = list(dict.fromkeys(name for name in roles.values() if name is not None))
    check_names("table", columns=names, names=[str(name) for name in frame.columns])
    arrays = {}
    for name in names:
        try:
            arrays[name] = pa.chunked_array([pa.array(frame[name], from_pandas=True)])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"table: column '{name}' mixes types ({reason}); a column has one type: convert it, for example "
                f"with frame['{name}'].astype(str)"
            ) from None
    return pa.table(arrays)
