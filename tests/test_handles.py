"""Open files of h5py and netCDF4 travel by name; what xarray reads and writes is right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import dask.array as da
import h5py
import netCDF4
import numpy as np
import pytest

import wukong
from wukong.errors import CodecError

VALUES = np.arange(1_000.0).reshape(100, 10)


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = VALUES
        file.create_group("group")["y"] = VALUES[0]
    return tmp_path / "a.h5"


@pytest.fixture
def netcdf(tmp_path: Path) -> Path:
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("rows", 100)
        file.createDimension("columns", 10)
        variable = file.createGroup("group").createVariable("x", "i2", ("rows", "columns"))
        variable.scale_factor = 0.5
        variable[:] = VALUES
    return tmp_path / "a.nc"


def test_hdf5_files_groups_and_datasets_travel_by_name(client: wukong.Client, hdf5: Path) -> None:
    with h5py.File(hdf5) as file:
        assert da.from_array(file["x"], chunks=50).sum().compute() == VALUES.sum()
        shape, total = dask.compute(
            dask.delayed(lambda file: file["x"].shape)(file),
            dask.delayed(lambda group: group["y"][:].sum())(file["group"]),
        )
        assert (shape, total) == (VALUES.shape, VALUES[0].sum())
    with h5py.File(hdf5, "w"):  # no executor holds it open
        pass


def test_netcdf_datasets_groups_and_variables_travel_by_name_with_their_conversion(
    client: wukong.Client, netcdf: Path
) -> None:
    with netCDF4.Dataset(netcdf) as file:
        variable = file["group"]["x"]
        assert da.from_array(variable, chunks=50).sum().compute() == VALUES.sum()
        variable.set_auto_scale(False)
        assert da.from_array(variable, chunks=50).sum().compute() == 2 * VALUES.sum()
        assert dask.delayed(lambda group: list(group.variables))(file["group"]).compute() == ["x"]
        assert dask.delayed(lambda file: list(file.groups))(file).compute() == ["group"]


@pytest.mark.parametrize("mode", ["r+", "w", "r"])
def test_a_file_that_is_open_for_writing_or_closed_is_refused(client: wukong.Client, hdf5: Path, mode: str) -> None:
    with h5py.File(hdf5, mode) as file:
        if mode == "r":
            file.close()
        with pytest.raises(CodecError, match="is closed" if mode == "r" else "is open for writing") as caught:
            client.get({"a": (id, file)}, "a")
        assert caught.value.task == "a"


XARRAY = """
import dask.array as da, numpy as np, xarray as xr, wukong

values = np.arange(1_000.0).reshape(100, 10)
with wukong.Client(progress=False):
    whole = xr.Dataset({"t": (("a", "b"), da.from_array(values, chunks=25))})
    xr.save_mfdataset([whole, whole * 2], ["1.nc", "2.nc"])
    with xr.open_dataset("2.nc", chunks={"a": 10}) as read:
        assert float(read.t.sum().compute()) == 2 * values.sum()
        (read + 1).to_netcdf("both.nc")
    with xr.open_dataset("both.nc") as read:
        np.testing.assert_array_equal(read.t, 2 * values + 1)
"""


def test_xarray_reads_and_writes_files(tmp_path: Path) -> None:
    apart = Path(sys.prefix, "xarray")
    assert apart.is_dir(), "'make .venv/.test' puts xarray there, apart from what every interpreter imports"
    environment = {**os.environ, "PYTHONPATH": str(apart)}
    done = subprocess.run(
        [sys.executable, "-c", XARRAY],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
