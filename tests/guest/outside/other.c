int outside_other(int x);

int outside_other(int x)
{
	return x * 3;
}
