# A package, so that its one browser is closed behind the last of its tests: no two can be open at a time.
