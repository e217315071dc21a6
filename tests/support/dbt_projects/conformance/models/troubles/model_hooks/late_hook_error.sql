{{ config(post_hook={'sql': 'select 1 / 0', 'transaction': false}) }}

select 1 as id
