select 'a word'::text as order_id
